"""The engines that there are."""

from pathlib import Path

import pytest

import samepage
from samepage import Machine, SamepageError
from samepage.cpu import engines

ROOT = Path(samepage.__file__).parent


@pytest.mark.parametrize("name", engines.NAMES)
def test_a_machine_and_its_snapshot_name_the_engine_that_ran(name):
    machine = Machine("64M", engine=name)
    assert machine.engine == name
    assert machine.snapshot().meta["engine"] == name


def test_an_engine_that_is_not_there_is_an_error_of_one_line():
    with pytest.raises(SamepageError, match="no engine 'bochs': it is one of unicorn, native"):
        Machine("64M", engine="bochs")


def test_a_limit_of_instructions_needs_an_engine_that_counts_them(monkeypatch):
    from samepage.cpu.unicorn.engine import UnicornEngine

    monkeypatch.setattr(UnicornEngine, "counts_instructions", False)
    Machine("64M")
    with pytest.raises(SamepageError, match="cannot count instructions: limit the time"):
        Machine("64M", max_instructions=1)


def test_what_all_engines_share_has_no_word_of_one():
    for name in ("engine", "mmu", "ram", "sandbox"):
        text = (ROOT / f"cpu/{name}.py").read_text().lower()
        for word in ("unicorn", "qemu", "kvm", "stub"):
            assert word not in text, (name, word)
