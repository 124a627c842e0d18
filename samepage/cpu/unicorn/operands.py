"""Where the operands of an instruction lie in memory.

Unicorn reports the page of a page fault, the hardware the address (CR2). What a program gets
as `si_addr` is therefore worked out from the instruction: the operand that begins in the
page is the one at fault, at its first byte; one that begins before it is at fault at the
page's first byte. So no operand's size is needed. Only the registers of 64-bit mode count,
and only instructions that the CPU has: no VEX. (Encoding: Intel SDM volume 2, chapter 2;
opcodes: appendix A.)
"""

from collections.abc import Callable

from samepage.arch import PAGE_SHIFT
from samepage.arch.x86_64.registers import Reg
from samepage.cpu.unicorn.rmw import PREFIXES
from samepage.records import record

_NUMBERED = (
    *(Reg.RAX, Reg.RCX, Reg.RDX, Reg.RBX, Reg.RSP, Reg.RBP, Reg.RSI, Reg.RDI),
    *range(Reg.R8, Reg.R15 + 1),
)
"""The registers as instructions number them."""
_RSP, _RBP = 4, 5
_SEGMENTS = {0x64: Reg.FS_BASE, 0x65: Reg.GS_BASE}

_WITH_MODRM = frozenset(
    [
        *(opcode for opcode in range(0x40) if opcode & 7 < 4),
        *(0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1, 0xC6, 0xC7),
        *(*range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF),
    ]
)
_WITHOUT_MODRM = frozenset(
    [
        *(*range(0x05, 0x0C), 0x0E, *range(0x30, 0x38), 0x77, *range(0x80, 0x90)),
        *(0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA, *range(0xC8, 0xD0)),
    ]
)
"""Of the two-byte opcodes."""
_BYTE_FOLLOWS = frozenset(
    [
        *(0x6B, 0x80, 0x82, 0x83, 0xC0, 0xC1, 0xC6),
        *(0x0F0F, 0x0F70, 0x0F71, 0x0F72, 0x0F73, 0x0FA4, 0x0FAC),
        *(0x0FBA, 0x0FC2, 0x0FC4, 0x0FC5, 0x0FC6),
    ]
)
_WORD_FOLLOWS = frozenset([0x69, 0x81, 0xC7])
"""Opcodes with an immediate operand after the one in memory: it moves the end of the
instruction, from which `disp(%rip)` counts."""
_PUSHES = frozenset([*range(0x50, 0x58), 0x68, 0x6A, 0x9C, 0xC8, 0xE8, 0x0FA0, 0x0FA8])
_POPS = frozenset([*range(0x58, 0x60), 0x9D, 0xC2, 0xC3, 0xCA, 0xCB, 0xCF, 0x0FA1, 0x0FA9])
_FROM_STRING = frozenset([0xA4, 0xA5, 0xA6, 0xA7, 0xAC, 0xAD])
_TO_STRING = frozenset([0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAE, 0xAF])

ReadRegister = Callable[[int], int]


def fault_address(code: bytes, pc: int, read: ReadRegister, page: int) -> int:
    """The address at which the instruction `code` at `pc` cannot access the page at `page`.

    `code` may be longer than the instruction. An instruction that is not known gives `page`.
    """
    try:
        operands = _Decoder(code, pc, read).operands()
    except IndexError:  # the code is cut off
        return page
    inside = (at for at in operands if at >> PAGE_SHIFT == page >> PAGE_SHIFT)
    return next(inside, page)


@record
class _Decoder:
    code: bytes
    pc: int
    read: ReadRegister
    at: int = 0
    rex: int = 0
    narrow: bool = False
    """Operands of 16 bits."""
    address_mask: int = (1 << 64) - 1
    segment: int = 0

    def operands(self) -> list[int]:
        """The first bytes of all operands in memory, those on the stack included."""
        self._prefixes()
        opcode = self._byte()
        if opcode == 0x0F:
            opcode = 0x0F00 | self._byte()
        stack = self.read(Reg.RSP)
        size = 2 if self.narrow and opcode != 0xE8 else 8
        if opcode in (0x0F38, 0x0F3A):
            self._byte()
            return [self._modrm_operand(1 if opcode == 0x0F3A else 0)]
        if opcode in _PUSHES:
            return [stack - size & self.address_mask]
        if opcode in _POPS:
            return [stack]
        if opcode == 0xC9:  # leave
            return [self.read(Reg.RBP)]
        if opcode in _FROM_STRING or opcode in _TO_STRING:
            return self._strings(opcode)
        if 0xA0 <= opcode < 0xA4:
            return [self._placed(self._number(4 if self.address_mask >> 32 == 0 else 8))]
        if opcode == 0xD7:  # xlat
            return [self._placed(self.read(Reg.RBX) + (self.read(Reg.RAX) & 0xFF))]
        if opcode in _WITH_MODRM or (opcode > 0xFF and opcode & 0xFF not in _WITHOUT_MODRM):
            return self._with_modrm(opcode, stack, size)
        return []

    def _prefixes(self) -> None:
        while self.code[self.at] in PREFIXES:
            prefix = self._byte()
            self.narrow |= prefix == 0x66
            if prefix == 0x67:
                self.address_mask = 0xFFFF_FFFF
            if prefix in _SEGMENTS:
                self.segment = self.read(_SEGMENTS[prefix])
        if self.code[self.at] & 0xF0 == 0x40:
            self.rex = self._byte()

    def _with_modrm(self, opcode: int, stack: int, size: int) -> list[int]:
        field = self.code[self.at] >> 3 & 7
        word = 2 if self.narrow and not self.rex & 8 else 4
        following = 0
        if opcode in _BYTE_FOLLOWS or (opcode == 0xF6 and field < 2):
            following = 1
        elif opcode in _WORD_FOLLOWS or (opcode == 0xF7 and field < 2):
            following = word
        if opcode == 0x8F:  # pop: an address by the stack pointer is the one after it
            return [self._modrm_operand(0, popped=size), stack]
        found = [self._modrm_operand(following)]
        if opcode == 0xFF and field in (2, 6):
            found.append(stack - (8 if field == 2 else size))
        return found

    def _modrm_operand(self, following: int, popped: int = 0) -> int:
        """The operand that a ModRM byte describes; -1 if it is a register."""
        modrm = self._byte()
        mode, base = modrm >> 6, modrm & 7
        if mode == 3:
            return -1
        address = 0
        if base == _RSP:
            sib = self._byte()
            base = sib & 7
            index = sib >> 3 & 7 | (self.rex & 2) << 2
            if index != _RSP:
                address = self.read(_NUMBERED[index]) << (sib >> 6)
        elif base == _RBP and mode == 0:
            distance = self._number(4)
            return self._placed(self.pc + self.at + following + distance)
        if base == _RBP and mode == 0:
            address += self._number(4)
        else:
            base |= (self.rex & 1) << 3
            address += self.read(_NUMBERED[base]) + (popped if base == _RSP else 0)
            address += self._number((0, 1, 4)[mode])
        return self._placed(address)

    def _strings(self, opcode: int) -> list[int]:
        found = []
        if opcode in _FROM_STRING:
            found.append(self._placed(self.read(Reg.RSI)))
        if opcode in _TO_STRING:
            found.append(self.read(Reg.RDI) & self.address_mask)
        return found

    def _placed(self, address: int) -> int:
        return (address & self.address_mask) + self.segment & (1 << 64) - 1

    def _byte(self) -> int:
        self.at += 1
        return self.code[self.at - 1]

    def _number(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self.code[self.at - size : self.at], "little", signed=True)
