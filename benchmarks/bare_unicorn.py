"""A floor for running a program: Unicorn alone, with flat memory and no kernel to speak of.

It maps the program and ld.so eagerly into Unicorn's own memory (no MMU hook, no page
tables, no page cache, no faults), and answers the few system calls that `sha256sum FILE`
makes. What it takes is what the CPU emulation itself costs.

    python -m benchmarks.bare_unicorn /usr/bin/sha256sum FILE
"""

import os
import struct
import sys
import time
from pathlib import Path

from unicorn import UC_ARCH_X86, UC_HOOK_INSN, UC_MODE_64, UC_PROT_ALL, Uc
from unicorn import x86_const as x86

PAGE = 4096
STACK_TOP = 0x7FFF_FFFF_F000
PROGRAM_AT, LOADER_AT, MMAP_AT = 0x5555_5555_4000, 0x7FFF_F7FC_0000, 0x7FFF_F000_0000
AREAS = ((PROGRAM_AT, 128 << 20), (MMAP_AT, 96 << 20), (LOADER_AT, 2 << 20))
AREAS += ((STACK_TOP - (1 << 20), 1 << 20),)
"""All memory, in few large regions: Unicorn is slow with many."""
ARGUMENTS = (x86.UC_X86_REG_RDI, x86.UC_X86_REG_RSI, x86.UC_X86_REG_RDX)
ARGUMENTS += (x86.UC_X86_REG_R10, x86.UC_X86_REG_R8, x86.UC_X86_REG_R9)


class BareMachine:
    """One program on Unicorn; `write` output goes to stdout."""

    def __init__(self, argv: list[str]) -> None:
        self.uc = Uc(UC_ARCH_X86, UC_MODE_64)
        self.uc.hook_add(UC_HOOK_INSN, self.syscall, None, 1, 0, x86.UC_X86_INS_SYSCALL)
        for start, length in AREAS:
            self.uc.mem_map(start, length, UC_PROT_ALL)
        self.next_mmap = MMAP_AT
        self.brk = 0
        program, entry, interp = self.load(argv[0], PROGRAM_AT)
        assert interp is not None, "a dynamically linked program is expected"
        _, start, _ = self.load(interp, LOADER_AT)
        self.uc.reg_write(x86.UC_X86_REG_RSP, self.stack(argv, program, entry))
        self.start = start

    def load(self, path: str, base: int) -> tuple[tuple[int, int], int, str | None]:
        data = Path(path).read_bytes()
        entry, phoff = struct.unpack_from("<QQ", data, 24)
        phnum = struct.unpack_from("<H", data, 56)[0]
        interp = None
        for index in range(phnum):
            kind, _, offset, vaddr, _, filesz, memsz, _ = struct.unpack_from(
                "<IIQQQQQQ", data, phoff + 56 * index
            )
            if kind == 1:
                self.uc.mem_write(base + vaddr, data[offset : offset + filesz])
                self.brk = max(self.brk, base + vaddr + memsz + PAGE - 1 & -PAGE)
            elif kind == 3:
                interp = data[offset : offset + filesz - 1].decode()
        if base == PROGRAM_AT:
            self.heap = self.brk
        return (base + phoff, phnum), base + entry, interp

    def stack(self, argv: list[str], program: tuple[int, int], entry: int) -> int:
        top = STACK_TOP - 64
        pointers = []
        for word in argv:
            top -= len(word) + 1
            self.uc.mem_write(top, word.encode() + b"\0")
            pointers.append(top)
        aux = [(3, program[0]), (4, 56), (5, program[1]), (6, PAGE), (7, LOADER_AT), (9, entry)]
        aux += [(11, 0), (12, 0), (13, 0), (14, 0), (16, 0x78BFBFD), (17, 100), (23, 0)]
        aux += [(25, STACK_TOP - 32), (0, 0)]
        words = [len(argv), *pointers, 0, 0, *(word for pair in aux for word in pair)]
        top = top - 8 * len(words) & ~15
        self.uc.mem_write(top, struct.pack(f"<{len(words)}Q", *words))
        return top

    def string(self, address: int) -> str:
        text = b""
        while b"\0" not in text:
            text += bytes(self.uc.mem_read(address + len(text), 16))
        return text.split(b"\0")[0].decode()

    def syscall(self, uc: Uc, _data: object) -> None:
        number = uc.reg_read(x86.UC_X86_REG_RAX)
        try:
            result = self.do_syscall(number, *(uc.reg_read(r) for r in ARGUMENTS))
        except OSError as error:
            result = -(error.errno or 5)
        uc.reg_write(x86.UC_X86_REG_RAX, result)

    def do_syscall(self, number: int, a: int, b: int, c: int, d: int, e: int, f: int) -> int:
        uc = self.uc
        if number == 0:
            data = os.read(a, c)
            uc.mem_write(b, data)
            return len(data)
        if number == 1:
            return os.write(a, bytes(uc.mem_read(b, c)))
        if number == 3:
            os.close(a) if a > 2 else None
            return 0
        if number == 9:
            return self.mmap(a, b, d, e, f)
        if number == 12:
            self.heap = max(a, self.heap)
            return self.heap
        if number == 17:
            data = os.pread(a, c, d)
            uc.mem_write(b, data)
            return len(data)
        if number == 158:
            uc.reg_write(x86.UC_X86_REG_FS_BASE, b)
            return 0
        if number == 257:
            return os.open(self.string(b), c & os.O_RDONLY)
        if number == 262:
            return self.fstat(a, self.string(b), c, d)
        if number in (60, 231):
            uc.emu_stop()
            return 0
        if number in (10, 11, 13, 14, 218, 221, 273):
            return 0
        return -38

    def mmap(self, address: int, length: int, flags: int, fd: int, offset: int) -> int:
        if not flags & 0x10:
            address, self.next_mmap = self.next_mmap, self.next_mmap + length + 2 * PAGE & -PAGE
        fd = fd & 0xFFFF_FFFF
        data = b"" if flags & 0x20 else os.pread(fd, length, offset)
        self.uc.mem_write(address, data.ljust(length, b"\0"))
        return address

    def fstat(self, fd: int, path: str, address: int, flags: int) -> int:
        st = os.fstat(fd) if not path else os.stat(path)
        packed = struct.pack(
            "<QQQIIIIQqqq",
            st.st_dev,
            st.st_ino,
            st.st_nlink,
            st.st_mode,
            st.st_uid,
            st.st_gid,
            0,
            st.st_rdev,
            st.st_size,
            4096,
            st.st_blocks,
        )
        self.uc.mem_write(address, packed.ljust(144, b"\0"))
        return 0

    def run(self) -> float:
        started = time.perf_counter()
        self.uc.emu_start(self.start, 0)
        return time.perf_counter() - started


if __name__ == "__main__":
    seconds = BareMachine(sys.argv[1:]).run()
    print(f"{seconds:.3f} s in Unicorn", file=sys.stderr)
