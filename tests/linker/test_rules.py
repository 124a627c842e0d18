"""The rules by version of glibc. Only one version is installed: for the others the source is
the authority, and the file and commit are given at each rule.
"""

from pathlib import Path

import pytest

from samepage.elf.file import ElfFile
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.rules import rules_for, rules_of, version_of

LDSO = "/lib64/ld-linux-x86-64.so.2"
BEFORE_AND_SINCE = {
    "checks_p_align": ((2, 34), (2, 35)),
    "adjusts_zero_rela": ((2, 35), (2, 36)),
    "legacy_hwcaps": ((2, 36), (2, 37)),
    "asserts_versions": ((2, 40), (2, 41)),
}
SINCE = {
    "aligns_segments": (2, 35),
    "sorts_depth_first": (2, 35),
    "packs_relative": (2, 36),
    "refuses_indirect_access": (2, 35),
    "warns_of_protected": (2, 36),
    "hwcaps_subdirectories": (2, 33),
    "skips_no_directory": (2, 39),
    "refuses_executable_stack": (2, 41),
}


@pytest.mark.skipif(not Path(LDSO).exists(), reason="no glibc")
def test_the_version_is_that_of_the_file() -> None:
    import subprocess

    text = subprocess.run([LDSO, "--version"], capture_output=True, text=True, check=True).stdout
    version = version_of(ElfFile.open(LDSO))
    assert version is not None
    assert f"release version {version[0]}.{version[1]}." in text
    assert rules_of(ElfFile.open(LDSO)).version == version


def test_when_rules_begin_and_end() -> None:
    for name, (last, first) in BEFORE_AND_SINCE.items():
        assert getattr(rules_for(last), name) is True, name
        assert getattr(rules_for(first), name) is False, name
    for name, (major, minor) in SINCE.items():
        assert getattr(rules_for((major, minor)), name) is True, name
        assert getattr(rules_for((major, minor - 1)), name) is False, name


def test_subdirectories_by_version() -> None:
    cpu = HardwareCapabilities(("x86-64-v2",))
    assert cpu.subdirectories(rules_for((2, 37))) == ["glibc-hwcaps/x86-64-v2/", ""]
    assert "glibc-hwcaps/x86-64-v2/" not in cpu.subdirectories(rules_for((2, 31)))
    assert "tls/x86_64/" in cpu.subdirectories(rules_for((2, 36)))
