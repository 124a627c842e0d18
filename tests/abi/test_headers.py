"""Each number of `samepage.abi` is the one in the installed headers of Linux and glibc."""

import importlib
import pathlib
import platform
import shutil
import subprocess

import pytest

MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "auxv": ("sys/auxv.h linux/auxvec.h", {"Aux": "AT_"}),
    "capability": ("linux/capability.h", {}),
    "elf": (
        "elf.h",
        {
            "ElfType": "ET_",
            "ElfMachine": "EM_",
            "SegmentType": "PT_",
            "SegmentFlags": "PF_",
            "DynamicFlags": "DF_",
            "DynamicFlags1": "DF_1_",
        },
    ),
    "fcntl": ("fcntl.h stdio.h", {}),
    "mman": (
        "sys/mman.h linux/mman.h",
        {
            "Prot": "PROT_",
            "MapFlags": "MAP_",
            "Advice": "MADV_",
            "MremapFlags": "MREMAP_",
            "MsFlags": "MS_",
            "Mcl": "MCL_",
        },
    ),
    "pagemap": (
        "linux/fs.h linux/kernel-page-flags.h",
        {"PageCategory": "PAGE_IS_", "Kpf": "1ull << KPF_"},
    ),
    "poll": ("poll.h", {}),
    "prctl": ("sys/prctl.h sys/personality.h asm/prctl.h", {"Pr": "PR_"}),
    "ptrace": (
        "linux/ptrace.h elf.h",
        {"Request": "PTRACE_", "Options": "PTRACE_O_", "Event": "PTRACE_EVENT_"},
    ),
    "resource": ("sys/resource.h", {"Rlimit": "RLIMIT_"}),
    "sched": ("sched.h linux/sched.h", {"Clone": "CLONE_"}),
    "signal": ("signal.h", {}),
    "time": ("time.h", {"Clock": "CLOCK_"}),
}
"""Module of `samepage.abi` -> headers, and for its classes what comes before a name there."""

OTHER_NAMES = {
    "MAP_LOW_32BIT": "MAP_32BIT",
    "EM_I386": "EM_386",
    "O_TMPFILE": "O_TMPFILE & ~O_DIRECTORY",
    "SIGRTMIN": "__SIGRTMIN",
}
KERNEL_ONLY = {
    "O_LARGEFILE",  # 0 for 64-bit programs, which set it always
    "1ull << KPF_MLOCKED",
    "ALL_CAPABILITIES",
    "ENTRY_SIZE",
    "MAX_SIGNAL",
    "NS",
    "PSS_SHIFT",
    "RLIM_INFINITY",  # unsigned in C as here, but of a type that `long long` does not hold
    "SA_RESTORER",
    "SS_AUTODISARM",
    "USER_DEBUGREG",
    "USER_HZ",
    "USER_TICK_NS",
}


NEWER = {
    "MADV_GUARD_INSTALL",
    "MADV_GUARD_REMOVE",
    "MAP_ABOVE4G",
    "MAP_DROPPABLE",
    "PAGEMAP_SCAN",
    "PAGE_IS_HUGE",
    "PAGE_IS_PRESENT",
    "PAGE_IS_SWAPPED",
    "PAGE_IS_WPALLOWED",
    "PAGE_IS_WRITTEN",
    "PM_SCAN_WP_MATCHING",
}
"""Numbers that the headers of Linux 6.1 do not have yet; newer headers are compared."""
NO_MACRO = {"ADDR_NO_RANDOMIZE", "PTRACE_POKEUSER", "SI_MAX_SIZE", "SYS_SECCOMP"}
"""Enumerators, and names that only the kernel's own headers have: `#ifdef` does not see them."""


def _numbers(module: str, prefixes: dict[str, str]) -> dict[str, int]:
    """The module's numbers by their C expressions."""
    found = {}
    for name, value in vars(importlib.import_module(f"samepage.abi.{module}")).items():
        if isinstance(value, int) and name.isupper():
            found[OTHER_NAMES.get(name, name)] = value
        elif name in prefixes:
            for member, number in vars(value).items():
                if member.isupper():
                    full = prefixes[name] + member
                    found[OTHER_NAMES.get(full, full)] = number
    return {
        expression: value for expression, value in found.items() if expression not in KERNEL_ONLY
    }


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize("module", MODULES)
def test_numbers_are_those_of_the_headers(module: str, tmp_path: pathlib.Path) -> None:
    headers, prefixes = MODULES[module]
    numbers = _numbers(module, prefixes)
    assert numbers
    lines = ["#define _GNU_SOURCE", "#include <stdio.h>"]
    lines += [f"#include <{header}>" for header in headers.split()]
    lines += ["int main(void) {"]
    for expression in numbers:
        macro = expression.removeprefix("1ull << ").split()[0]
        lines += [f"#ifdef {macro}", f'printf("%s=%lld\\n", "{expression}", '
                  f"(long long)({expression}));", "#endif"]  # fmt: skip
    source = tmp_path / "numbers.c"
    source.write_text("\n".join([*lines, "}"]))
    subprocess.run(["cc", "-o", tmp_path / "numbers", source], check=True)
    output = subprocess.run([tmp_path / "numbers"], capture_output=True, text=True, check=True)
    known = {
        expression: int(value)
        for expression, value in (line.split("=") for line in output.stdout.splitlines())
    }
    assert {expression: numbers[expression] for expression in known} == known
    assert not set(numbers) - set(known) - NEWER - NO_MACRO
