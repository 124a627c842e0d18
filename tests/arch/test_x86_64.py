"""What `samepage.arch` claims of x86-64, against Linux's headers, the compiler and this process."""

import ctypes
import itertools
import os
import platform
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

import samepage
from samepage.abi.auxv import Aux, parse_auxv
from samepage.arch import (
    ADDRESS_LIMIT,
    ARCH,
    ELF_ET_DYN_BASE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    PROTECTION_MAP,
    STACK_TOP,
    TASK_SIZE,
    TASK_UNMAPPED_BASE,
    Access,
    Sys,
    mk_pte,
    mmap_base,
    pte_dirty,
    pte_mkclean,
    pte_mkdirty,
    pte_mkexec,
    pte_mkold,
    pte_mkwrite,
    pte_mkyoung,
    pte_modify,
    pte_permits,
    pte_pfn,
    pte_valid,
    pte_write,
    pte_wrprotect,
    pte_young,
    syscall_name,
)
from samepage.arch.arch import SignalContext

on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="asks an x86-64 host")
READ, WRITE, EXEC = 1, 2, 4
PFN = 0x12345


@on_x86_64
def test_page_size_platform_and_machine_are_those_of_this_process():
    auxv = parse_auxv(Path("/proc/self/auxv").read_bytes())
    assert auxv[Aux.PAGESZ] == PAGE_SIZE == 1 << PAGE_SHIFT
    assert ctypes.string_at(auxv[Aux.PLATFORM]) == ARCH.platform
    assert tuple(auxv)[:2] == ARCH.dlinfo
    assert platform.machine() == ARCH.name
    assert Path("/proc/self/exe").read_bytes()[18] == ARCH.elf_machine


@on_x86_64
def test_the_layout_is_that_of_a_process_without_randomisation():
    result = subprocess.run(
        ["setarch", "-R", "cat", "/proc/self/maps"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20)),
    )
    if result.returncode:
        pytest.skip(f"randomisation cannot be switched off: {result.stderr.strip()}")
    places = [line.split() for line in result.stdout.splitlines()]
    starts = [int(place[0].split("-")[0], 16) for place in places]
    ends = {place[-1]: int(place[0].split("-")[1], 16) for place in places}
    assert starts[0] == ELF_ET_DYN_BASE
    assert ends["[stack]"] == STACK_TOP
    below_the_gap = [end for name, end in ends.items() if name not in ("[stack]", "[vsyscall]")]
    assert max(below_the_gap) == mmap_base(8 << 20)


@on_x86_64
def test_nothing_can_be_mapped_at_the_end_of_user_space():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    private, anonymous, fixed = 2, 0x20, 0x10_0000

    def mapped(address):
        got = libc.mmap(address, PAGE_SIZE, 0, private | anonymous | fixed, -1, 0)
        if got == ctypes.c_void_p(-1).value:
            return os.strerror(ctypes.get_errno())
        libc.munmap(ctypes.c_void_p(got), PAGE_SIZE)
        return got

    assert mapped(TASK_SIZE - PAGE_SIZE) == TASK_SIZE - PAGE_SIZE
    assert mapped(TASK_SIZE) == "Cannot allocate memory"
    assert ADDRESS_LIMIT - TASK_SIZE == PAGE_SIZE


def test_the_areas_lie_in_user_space():
    assert TASK_UNMAPPED_BASE % PAGE_SIZE == ELF_ET_DYN_BASE % PAGE_SIZE == 0
    assert TASK_UNMAPPED_BASE == -(-(TASK_SIZE // 3) // PAGE_SIZE) * PAGE_SIZE
    for limit in (0, 8 << 20, 1 << 30, 1 << 46, (1 << 64) - 1):
        assert TASK_SIZE // 6 <= mmap_base(limit) <= STACK_TOP - (128 << 20)


@pytest.mark.parametrize("prot", range(8))
def test_a_new_entry_permits_its_protection_but_no_write(prot):
    entry = mk_pte(PFN, PROTECTION_MAP[prot])
    assert entry != 0
    assert pte_pfn(entry) == PFN
    assert pte_young(entry)
    assert not pte_dirty(entry)
    assert not pte_write(entry)
    assert pte_valid(entry) == bool(prot)
    assert pte_permits(entry, Access.READ) == bool(prot)
    assert not pte_permits(entry, Access.WRITE)
    assert pte_permits(entry, Access.EXECUTE) == bool(prot & EXEC)
    assert pte_permits(pte_mkwrite(entry), Access.WRITE) == bool(prot)


def test_an_empty_entry_permits_nothing():
    assert not pte_valid(0)
    assert not any(pte_permits(0, access) for access in Access)


def test_each_change_of_an_entry_changes_that_alone():
    asks = (pte_valid, pte_write, pte_dirty, pte_young, pte_pfn)
    changes = {
        pte_mkwrite: (pte_write, True),
        pte_wrprotect: (pte_write, False),
        pte_mkdirty: (pte_dirty, True),
        pte_mkclean: (pte_dirty, False),
        pte_mkyoung: (pte_young, True),
        pte_mkold: (pte_young, False),
    }
    for prot, first, change in itertools.product(range(1, 8), changes, changes):
        entry = first(mk_pte(PFN, PROTECTION_MAP[prot]))
        question, answer = changes[change]
        expected = {ask: ask(entry) for ask in asks} | {question: answer}
        assert {ask: ask(change(entry)) for ask in asks} == expected
        executable = pte_permits(entry, Access.EXECUTE)
        assert pte_permits(change(entry), Access.EXECUTE) == executable
        assert pte_permits(pte_mkexec(entry), Access.EXECUTE)


def test_modify_keeps_the_page_and_what_happened_to_it():
    for old, new in itertools.product(range(8), range(8)):
        for change in (pte_mkold, pte_mkdirty, pte_mkwrite):
            entry = change(mk_pte(PFN, PROTECTION_MAP[old]))
            changed = pte_modify(entry, PROTECTION_MAP[new])
            assert pte_pfn(changed) == PFN
            assert pte_dirty(changed) == pte_dirty(entry)
            assert not pte_write(changed)
            assert pte_valid(changed) == bool(new)


def test_a_last_level_table_fills_one_frame():
    assert PMD_SIZE == (PAGE_SIZE // 8) << PAGE_SHIFT


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@on_x86_64
def test_system_calls_have_the_numbers_of_linux_headers():
    text = subprocess.run(
        ["cc", "-E", "-dM", "-xc", "-", "-o", "-"],
        input="#include <asm/unistd_64.h>\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {n.upper(): int(v) for n, v in re.findall(r"#define __NR_(\w+) (\d+)$", text, re.M)}
    assert len(found) > 300
    ours = {name: value for name, value in vars(Sys).items() if name.isupper()}
    known = {name: value for name, value in ours.items() if name in found}
    assert known == {name: found[name] for name in known}
    assert found.keys() <= ours.keys()
    assert syscall_name(ours["READ"]) == "read"
    assert syscall_name(99999) == "syscall_99999"


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@on_x86_64
def test_the_signal_frame_has_the_offsets_of_the_compilers_ucontext(tmp_path):
    source = """
    #define _GNU_SOURCE
    #include <stddef.h>
    #include <stdio.h>
    #include <ucontext.h>
    int main(void) {
        for (int i = 0; i < 23; i++)
            printf("%d %zu\\n", i, offsetof(ucontext_t, uc_mcontext.gregs) + 8 * i);
        printf("fp %zu\\nmask %zu\\nstack %zu\\n", offsetof(ucontext_t, uc_mcontext.fpregs),
               offsetof(ucontext_t, uc_sigmask), offsetof(ucontext_t, uc_stack));
        printf("rip %d efl %d err %d trapno %d cr2 %d\\n", REG_RIP, REG_EFL, REG_ERR, REG_TRAPNO,
               REG_CR2);
    }"""
    (tmp_path / "u.c").write_text(source)
    subprocess.run(["cc", "-o", tmp_path / "u", tmp_path / "u.c"], check=True)
    lines = subprocess.run([tmp_path / "u"], capture_output=True, text=True, check=True).stdout
    at = {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", lines, re.M)}
    frame, registers = ARCH.signal_frame, ARCH.signal_frame.registers
    values = tuple(0x1111 * (i + 1) for i in range(len(registers)))
    context = SignalContext(values, 0xAB, (0x7000, 4, 0x2000), 0xF000, (5, 14, 0xC000))
    packed = frame.pack(0x4000, context)

    def word(offset):  # of the ucontext, which follows the restorer's address
        return int.from_bytes(packed[8 + offset : 16 + offset], "little")

    assert len(packed) == frame.size
    assert [word(at[str(i)]) for i in range(len(registers))] == list(values)
    assert [word(at[str(i)]) for i in (19, 20, 22)] == [5, 14, 0xC000]
    assert (word(at["fp"]), word(at["mask"]), word(at["stack"])) == (0xF000, 0xAB, 0x7000)
    assert "rip 16 efl 17 err 19 trapno 20 cr2 22" in lines
    assert frame.unpack(packed) == context


def test_no_other_module_tests_the_bits_of_an_entry_by_number():
    root = Path(samepage.__file__).parent
    bits = re.compile(r"\b(?:entry|pte)\b *[&|] *~?\(? *(?:0x[0-9A-Fa-f_]+|\d+)")
    for room in ("kernel/mm", "kernel/fs", "machine"):
        paths = list((root / room).rglob("*.py"))
        assert paths
        for path in paths:
            assert not bits.search(path.read_text()), path
