"""The machine code that we add to a process: what a loader must have in the process.

A process runs by itself once it has been linked, so what ld.so's own code would do later
must be there as code. It is one page, with the tables that it reads behind it:

    start       calls the functions of a table, then enters the program as `_dl_start_user`
                does: the stack pointer addresses argc, rdx is a function for `atexit`
    fini        calls the destructors; it is that function where ld.so has not its own
    stop        where functions that the linker calls return to; it is never executed
    resolve     binds a PLT entry at its first call, from the table in GOT[1] (`lazy.py`);
                calls the function's resolver first if it has one
    tlsdesc     the function of a TLS descriptor in the static block, and the one of an
                undefined weak variable (`_dl_tlsdesc_return`, `_dl_tlsdesc_undefweak`)
    undefined   writes a message and exits: what a call of an undefined function comes to

The bytes are written out; beside each is the instruction.
"""

import struct
from dataclasses import dataclass, field

START = bytes.fromhex(
    "4989e4"  #             mov    r12, rsp
    "488d1d00000000"  #     lea    rbx, [rip + table]
    "4883e4f0"  #           and    rsp, -16
    # next:
    "488b03"  #             mov    rax, [rbx]
    "4885c0"  #             test   rax, rax
    "7422"  #               je     done
    "498b3c24"  #           mov    rdi, [r12]            argc
    "498d742408"  #         lea    rsi, [r12 + 8]        argv
    "488d54fe08"  #         lea    rdx, [rsi + rdi*8 + 8]  envp
    "488b4b08"  #           mov    rcx, [rbx + 8]
    "4885c9"  #             test   rcx, rcx
    "480f45f9"  #           cmovne rdi, rcx
    "ffd0"  #               call   rax
    "4883c310"  #           add    rbx, 16
    "ebd7"  #               jmp    next
    "90"  #                 nop
    # done:
    "488b5308"  #           mov    rdx, [rbx + 8]
    "4c89e4"  #             mov    rsp, r12
    "31ed"  #               xor    ebp, ebp
    "ff6310"  #             jmp    [rbx + 16]
)
"""The table: pairs of a function and its first argument (0: argc), a 0, rdx, the entry."""

FINI = bytes.fromhex(
    "53"  #                 push   rbx
    "488d1d00000000"  #     lea    rbx, [rip + table]
    # next:
    "488b03"  #             mov    rax, [rbx]
    "4885c0"  #             test   rax, rax
    "7408"  #               je     done
    "4883c308"  #           add    rbx, 8
    "ffd0"  #               call   rax
    "ebf0"  #               jmp    next
    # done:
    "5b"  #                 pop    rbx
    "c3"  #                 ret
)
"""The table: functions, then a 0."""

STOP = bytes.fromhex("f4")  # hlt

RESOLVE = bytes.fromhex(
    "50"  #                 push   rax
    "51"  #                 push   rcx
    "488b442418"  #         mov    rax, [rsp + 24]        the entry's number, pushed by it
    "48c1e004"  #           shl    rax, 4
    "4803442410"  #         add    rax, [rsp + 16]        GOT[1]
    "488b08"  #             mov    rcx, [rax]             the slot
    "488b4008"  #           mov    rax, [rax + 8]         the function
    "480fbaf13f"  #         btr    rcx, 63                is it one that has a resolver?
    "7210"  #               jc     choose
    # store:
    "488901"  #             mov    [rcx], rax
    "4889442418"  #         mov    [rsp + 24], rax
    "59"  #                 pop    rcx
    "58"  #                 pop    rax
    "488d642408"  #         lea    rsp, [rsp + 8]
    "c3"  #                 ret
    # choose:
    "51"  #                 push   rcx
    "52"  #                 push   rdx
    "56"  #                 push   rsi
    "57"  #                 push   rdi
    "4150"  #               push   r8
    "4151"  #               push   r9
    "53"  #                 push   rbx
    "4889e3"  #             mov    rbx, rsp
    "4881ec80000000"  #     sub    rsp, 128
    "4883e4f0"  #           and    rsp, -16
    "0f290424"  #           movaps [rsp], xmm0
    "0f294c2410"  #         movaps [rsp + 16], xmm1
    "0f29542420"  #         movaps [rsp + 32], xmm2
    "0f295c2430"  #         movaps [rsp + 48], xmm3
    "0f29642440"  #         movaps [rsp + 64], xmm4
    "0f296c2450"  #         movaps [rsp + 80], xmm5
    "0f29742460"  #         movaps [rsp + 96], xmm6
    "0f297c2470"  #         movaps [rsp + 112], xmm7
    "ffd0"  #               call   rax
    "0f280424"  #           movaps xmm0, [rsp]
    "0f284c2410"  #         movaps xmm1, [rsp + 16]
    "0f28542420"  #         movaps xmm2, [rsp + 32]
    "0f285c2430"  #         movaps xmm3, [rsp + 48]
    "0f28642440"  #         movaps xmm4, [rsp + 64]
    "0f286c2450"  #         movaps xmm5, [rsp + 80]
    "0f28742460"  #         movaps xmm6, [rsp + 96]
    "0f287c2470"  #         movaps xmm7, [rsp + 112]
    "4889dc"  #             mov    rsp, rbx
    "5b"  #                 pop    rbx
    "4159"  #               pop    r9
    "4158"  #               pop    r8
    "5f"  #                 pop    rdi
    "5e"  #                 pop    rsi
    "5a"  #                 pop    rdx
    "59"  #                 pop    rcx
    "e978ffffff"  #         jmp    store
)
"""A slot with bit 63 set has an IFUNC: its resolver is called, and the call's arguments are
kept meanwhile."""

TLSDESC = bytes.fromhex(
    "488b4008"  #           mov    rax, [rax + 8]
    "c3"  #                 ret
)

TLSDESC_UNDEFINED = bytes.fromhex(
    "488b4008"  #           mov    rax, [rax + 8]
    "64482b042500000000"  # sub    rax, fs:[0]
    "c3"  #                 ret
)

UNDEFINED = bytes.fromhex(
    "bf02000000"  #         mov    edi, 2
    "488d3500000000"  #     lea    rsi, [rip + message]
    "ba00000000"  #         mov    edx, length
    "b801000000"  #         mov    eax, 1                write
    "0f05"  #               syscall
    "bf7f000000"  #         mov    edi, 127
    "b8e7000000"  #         mov    eax, 231              exit_group
    "0f05"  #               syscall
)
_LEA_RSI, _MOV_EDX = 8, 13
"""Where in UNDEFINED the two operands are."""


@dataclass(slots=True)
class Code:
    """The code page as it is put together for one process at `address`.

    The attributes are addresses, 0 until it has been added.
    """

    address: int
    start: int = 0
    fini: int = 0
    stop: int = 0
    resolve: int = 0
    tlsdesc: int = 0
    tlsdesc_undefined: int = 0
    _data: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.stop = self._add(STOP)
        self.resolve = self._add(RESOLVE)
        self.tlsdesc = self._add(TLSDESC)
        self.tlsdesc_undefined = self._add(TLSDESC_UNDEFINED)

    def _add(self, code: bytes) -> int:
        self._data += bytes(-len(self._data) % 16)
        address = self.address + len(self._data)
        self._data += code
        return address

    def _add_with_table(self, code: bytes, operand: int, table: bytes) -> int:
        """Code with the distance of a table behind it in a 4-byte operand."""
        distance = -(-len(code) // 8) * 8 - operand - 4
        patched = bytearray(code)
        struct.pack_into("<i", patched, operand, distance)
        return self._add(bytes(patched).ljust(-(-len(code) // 8) * 8, b"\x90") + table)

    def add_start(self, calls: list[tuple[int, int]], rdx: int, entry: int) -> None:
        """Add `start`: `calls` are functions and their first argument, 0 for argc."""
        words = [word for call in calls for word in call]
        self.start = self._add_with_table(START, 6, _words([*words, 0, rdx, entry]))

    def add_fini(self, functions: list[int]) -> None:
        """Add `fini`, which calls `functions` in order."""
        self.fini = self._add_with_table(FINI, 4, _words([*functions, 0]))

    def add_undefined(self, message: bytes) -> int:
        """Add code that ends the process with a message; return its address."""
        code = bytearray(UNDEFINED)
        struct.pack_into("<i", code, _MOV_EDX, len(message))
        return self._add_with_table(bytes(code), _LEA_RSI, message)

    @property
    def data(self) -> bytes:
        """The bytes, for `address`."""
        return bytes(self._data)


def _words(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)
