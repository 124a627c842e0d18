"""The model is the kernel, to the last page, for forty groups of real programs.

This is the truth test of the whole project. There is no tolerance in it: pages, frames,
labels, dirty bits, sums and fault counts are all equal, or the test fails with both sides'
stories.
"""

import os
import re
from pathlib import Path

import pytest

from samepage.errors import SamepageError
from samepage.lab.commands import Commands, join_commands
from samepage.lab.environment import ENVIRONMENT, find_program
from samepage.lab.live_side import LiveSide
from samepage.lab.scenario import Scenario
from samepage.lab.side import observe
from samepage.verify.corpus import read_corpus
from samepage.verify.group import Options, Outcome, verify_group
from samepage.verify.lines import record_lines
from samepage.verify.record import to_record

SUBSET = read_corpus(str(Path(__file__).with_name("subset.txt")))
REFERENCE_KERNEL = (6, 18)


def _why_not() -> str | None:
    """Why this machine cannot be compared with the model."""
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    if release < REFERENCE_KERNEL:
        return f"the rules are those of Linux 6.18 or later, this is {os.uname().release}"
    try:
        observation = observe(LiveSide(), Scenario([["true"]], ENVIRONMENT, timeout=20))
    except (SamepageError, OSError) as error:
        return f"programs cannot be observed here: {error}"
    if not observation.snapshot.frames_visible:
        return "the kernel shows no frame numbers (root sees them)"
    return None


WHY_NOT = _why_not()


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
@pytest.mark.parametrize("commands", SUBSET, ids=join_commands)
def test_the_model_has_the_memory_that_the_kernel_has(commands: Commands) -> None:
    for argv in commands:
        try:
            find_program(argv[0])
        except SamepageError as error:
            pytest.skip(error.message)
    verdict = verify_group(commands, Options(ENVIRONMENT, timeout=60, timeline=True, attempts=5))
    if verdict.outcome is not Outcome.AGREES:
        pytest.fail("\n".join(record_lines(to_record(verdict), shown=3)), pytrace=False)


def test_the_subset_has_forty_groups() -> None:
    assert len(SUBSET) == 40
