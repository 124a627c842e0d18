"""Which instructions fault once, for writing, is known from the assembler's own encoding."""

import shutil
import subprocess
from pathlib import Path

import pytest

from samepage.cpu.unicorn.rmw import writes_back

READS_AND_WRITES = [
    "",
    "andb $0xdf, 0x18652(%rip)",
    "add %rax, (%rdi)",
    "orl $1, 8(%rsp)",
    "lock xaddl %eax, (%rdx)",
    "lock cmpxchg %rcx, (%rdi)",
    "xchg %rax, (%rbx)",
    "incq (%rax)",
    "decb 1(%r9)",
    "negl (%rcx)",
    "notw (%rcx)",
    "shll $3, (%rax)",
    "sarq %cl, (%rax)",
    "rolb (%rax)",
    "shld $4, %eax, (%rcx)",
    "bts $5, (%rax)",
    "btc %eax, (%rcx)",
    "btrl $5, (%rax)",
    "cmpxchg16b (%r8)",
    "sbbq $127, (%r15)",
    "xorw $0x1234, (%rax)",
    "addl %r8d, %fs:0x28",
    "",
][1:-1]

DOES_NOT = [
    "",
    "mov %rax, (%rdi)",
    "mov (%rdi), %rax",
    "add (%rdi), %rax",
    "add %rax, %rbx",
    "cmpl $1, (%rax)",
    "cmp %rax, (%rbx)",
    "testl $1, (%rax)",
    "bt $5, (%rax)",
    "push (%rax)",
    "call *(%rax)",
    "jmp *(%rax)",
    "movsb",
    "incl %eax",
    "mulq (%rax)",
    "divl (%rcx)",
    "movaps %xmm1, (%rax)",
    "lea (%rax), %rbx",
    "setne (%rax)",
    "nop",
    "",
][1:-1]

AS, OBJCOPY = shutil.which("as"), shutil.which("objcopy")
pytestmark = pytest.mark.skipif(not AS or not OBJCOPY, reason="no assembler here")


def assemble(line: str, directory: Path) -> bytes:
    """The bytes of one instruction."""
    assert AS
    assert OBJCOPY
    source, target, raw = (directory / name for name in ("a.s", "a.o", "a.bin"))
    source.write_text(line + "\n")
    subprocess.run([AS, "--64", "-o", target, source], check=True)
    subprocess.run([OBJCOPY, "-O", "binary", "-j", ".text", target, raw], check=True)
    return raw.read_bytes()


@pytest.mark.parametrize("line", READS_AND_WRITES)
def test_an_instruction_that_stores_to_what_it_loads(line: str, tmp_path: Path) -> None:
    assert writes_back(assemble(line, tmp_path).ljust(15, b"\x90"))


@pytest.mark.parametrize("line", DOES_NOT)
def test_an_instruction_that_does_not(line: str, tmp_path: Path) -> None:
    assert not writes_back(assemble(line, tmp_path).ljust(15, b"\x90"))


def test_code_that_is_cut_off_is_no_reason_to_fail() -> None:
    for size in range(4):
        assert not writes_back(b"\xf0\x48\x0f\xc1\x02"[:size])
