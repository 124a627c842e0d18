"""Which instructions read a memory operand only to write it back.

An instruction such as `andb $0xdf, (mem)` loads its operand and stores the result. A real
CPU translates the address once, for writing: if the page is absent, there is one page fault,
a write. Unicorn does the load and the store as two accesses, so that a read fault would
come first, and the kernel would map what a read maps (the cached page and its neighbours)
before it copies the page for the write. The MMU therefore asks here before it raises a
fault for a load. Seen on AMD EPYC: ld.so's first such instruction takes one fault.

Only instructions with one memory operand count; `movs` and `push (mem)` read one place and
write another. (Opcodes: Intel SDM volume 2, appendix A.)
"""

LONGEST_INSTRUCTION = 15
"""Bytes; the CPU refuses a longer one."""

PREFIXES = frozenset(b"\x66\x67\xf0\xf2\xf3\x2e\x36\x3e\x26\x64\x65")
_ALL = 0xFF


def _groups() -> dict[int, int]:
    """Opcode (two-byte ones as 0x0fXX) -> bit set of the ModRM `reg` fields that write."""
    groups = {}
    for base in (0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30):  # add or adc sbb and sub xor
        groups[base] = groups[base + 1] = _ALL
    for opcode in (0x80, 0x81, 0x83):  # the same with an immediate; /7 is cmp
        groups[opcode] = 0x7F
    for opcode in (0x86, 0x87, 0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3):  # xchg; rotate and shift
        groups[opcode] = _ALL
    for opcode in (0xF6, 0xF7):  # /2 not, /3 neg
        groups[opcode] = 1 << 2 | 1 << 3
    for opcode in (0xFE, 0xFF):  # /0 inc, /1 dec
        groups[opcode] = 1 << 0 | 1 << 1
    for opcode in (0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD):  # shld, shrd
        groups[opcode] = _ALL
    for opcode in (0x0FAB, 0x0FB3, 0x0FBB):  # bts, btr, btc
        groups[opcode] = _ALL
    groups[0x0FBA] = 1 << 5 | 1 << 6 | 1 << 7  # the same with an immediate; /4 is bt
    for opcode in (0x0FB0, 0x0FB1, 0x0FC0, 0x0FC1):  # cmpxchg, xadd
        groups[opcode] = _ALL
    groups[0x0FC7] = 1 << 1  # cmpxchg8b, cmpxchg16b
    return groups


_WRITES = _groups()


def writes_back(code: bytes) -> bool:
    """Whether the x86-64 instruction at the start of `code` stores to the operand that it
    loads. `code` may be cut off after `LONGEST_INSTRUCTION` bytes."""
    at = 0
    while at < len(code) and code[at] in PREFIXES:
        at += 1
    if at < len(code) and code[at] & 0xF0 == 0x40:  # REX
        at += 1
    if at + 2 > len(code):
        return False
    opcode = code[at]
    if opcode == 0x0F:
        at += 1
        opcode = 0x0F00 | code[at]
    fields = _WRITES.get(opcode)
    if fields is None or at + 1 >= len(code):
        return False
    modrm = code[at + 1]
    in_memory = modrm >> 6 != 3
    return in_memory and bool(fields >> (modrm >> 3 & 7) & 1)


_LOCK, _XCHG = 0xF0, (0x86, 0x87)


def is_atomic(code: bytes) -> bool:
    """Whether an instruction that `writes_back` is atomic: it has a lock prefix, or is `xchg`.
    An emulator of several CPUs, as QEMU's TCG, then translates for writing at once, too
    (`atomic_mmu_lookup`)."""
    at = 0
    while code[at] in PREFIXES:
        if code[at] == _LOCK:
            return True
        at += 1
    return code[at + 1 if code[at] & 0xF0 == 0x40 else at] in _XCHG
