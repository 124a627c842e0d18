"""Unicorn's C library, called directly.

The package `unicorn` brings the library and a Python binding. The binding serves every
architecture and every use; for a machine that enters and leaves the emulator thousands of
times it costs too much: 45 ms to import, 60 us to read the registers of a system call, and
half of the time of each TLB fill (measured with `python -m benchmarks.programs`). This
module has the few calls that the CPU needs, for x86-64 only.

A callback must not let an exception out: Unicorn's C code would continue. So `run` stops the
emulation and raises it afterwards.
"""

import ctypes
import mmap
import threading
from collections.abc import Callable, Iterable
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from samepage.arch.x86_64.registers import Reg
from samepage.cpu.engine import EngineError
from samepage.cpu.ram import Ram
from samepage.cpu.unicorn import library, private
from samepage.cpu.unicorn.registers import NUMBERS, UcReg

_ARCH_X86, _MODE_64 = 4, 8
_HOOK_INTR, _HOOK_INSN, _HOOK_CODE, _HOOK_BLOCK, _HOOK_TLB_FILL = 1, 2, 4, 8, 131072
_INSN_SYSCALL, _INSN_IN, _INSN_OUT = 699, 218, 500
_CTL_TB_FLUSH, _CTL_TLB_FLUSH, _CTL_TLB_TYPE = 10, 11, 12
_CTL_WRITE, _CTL_ARGUMENTS_SHIFT, _CTL_DIRECTION_SHIFT = 1, 26, 30
_TLB_VIRTUAL = 1

PROT_READ, PROT_WRITE, PROT_EXEC, PROT_ALL = 1, 2, 4, 7
MEM_READ, MEM_WRITE, MEM_FETCH = 16, 17, 18
ERR_OK, ERR_INSN_INVALID, ERR_EXCEPTION = 0, 10, 21


class TlbEntry(ctypes.Structure):
    """`uc_tlb_entry`: what the MMU answers."""

    _fields_ = (("paddr", c_uint64), ("perms", c_int))


class _Msr(ctypes.Structure):
    """`uc_x86_msr`: a model-specific register and its value."""

    _fields_ = (("number", c_uint32), ("value", c_uint64))


_MSR_EFER, _MSR_STAR, _EFER_SCE = 0xC000_0080, 0xC000_0081, 1
_USER_SEGMENTS = 0x23
"""SYSRETQ loads CS with this plus 16 and SS with this plus 8: 0x33 and 0x2b, as Linux."""
_SYSRETQ = b"\x48\x0f\x07\x90"
"""With a NOP behind it."""
_EFLAGS_IF = 0x202

_TLB_FILL = ctypes.CFUNCTYPE(c_bool, c_void_p, c_uint64, c_int, POINTER(TlbEntry), c_void_p)
_SYSCALL = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
_INTERRUPT = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_void_p)
_PORT_READ = ctypes.CFUNCTYPE(c_uint32, c_void_p, c_uint32, c_int, c_void_p)
_PORT_WRITE = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_int, c_uint32, c_void_p)
_CODE = ctypes.CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_void_p)

TlbFill = Callable[[int, int, TlbEntry], bool]


_lib: ctypes.CDLL
"""The library, from the first `Emulator` on: it is loaded while modules are imported."""


def _load() -> None:
    global _lib
    _lib = lib = library.load()
    lib.uc_strerror.restype = c_char_p
    lib.uc_open.argtypes = (c_int, c_int, POINTER(c_void_p))
    lib.uc_close.argtypes = (c_void_p,)
    lib.uc_mem_map_ptr.argtypes = (c_void_p, c_uint64, c_uint64, c_uint32, c_void_p)
    lib.uc_hook_del.argtypes = (c_void_p, c_size_t)
    lib.uc_emu_start.argtypes = (c_void_p, c_uint64, c_uint64, c_uint64, c_size_t)
    lib.uc_emu_stop.argtypes = (c_void_p,)
    lib.uc_reg_read.argtypes = lib.uc_reg_write.argtypes = (c_void_p, c_int, c_void_p)
    lib.uc_reg_read_batch.argtypes = (c_void_p, c_void_p, c_void_p, c_int)
    lib.uc_context_alloc.argtypes = (c_void_p, POINTER(c_void_p))
    lib.uc_context_save.argtypes = lib.uc_context_restore.argtypes = (c_void_p, c_void_p)
    lib.uc_context_reg_read.argtypes = (c_void_p, c_int, c_void_p)
    lib.uc_context_reg_write.argtypes = (c_void_p, c_int, c_void_p)
    lib.uc_context_free.argtypes = (c_void_p,)


def _check(status: int) -> None:
    if status != ERR_OK:
        raise EngineError(_lib.uc_strerror(status).decode())


def _control(handle: c_void_p, what: int, *arguments: object) -> None:
    code = what | len(arguments) << _CTL_ARGUMENTS_SHIFT | _CTL_WRITE << _CTL_DIRECTION_SHIFT
    _check(_lib.uc_ctl(handle, c_uint32(code), *arguments))


def _open() -> tuple[c_void_p, c_bool]:
    """Make an emulator; return it and its field `no_exit_request` (see `private`)."""
    _load()
    handle = c_void_p()
    _check(_lib.uc_open(_ARCH_X86, _MODE_64, byref(handle)))
    return handle, private.find_no_exit_request(
        handle, lambda: _control(handle, _CTL_TLB_TYPE, c_int(_TLB_VIRTUAL))
    )


_spare: list[tuple[c_void_p, c_bool]] = []
"""What `prepare` has made."""


def prepare() -> None:
    """Load the library and make an emulator in a thread, for the first `Emulator`. Raises
    `EngineError` if the library is not installed."""
    library.preload(lambda: _spare.append(_open()))


class SavedRegisters:
    """A saved set of all registers (`uc_context`)."""

    def __init__(self, emulator: "Emulator") -> None:
        self.handle = c_void_p()
        _check(_lib.uc_context_alloc(emulator.handle, byref(self.handle)))
        self._free = _lib.uc_context_free

    def __del__(self) -> None:
        if self.handle:
            self._free(self.handle)

    def read(self, register: int) -> int:
        """A general register of the set."""
        value = c_uint64()
        _check(_lib.uc_context_reg_read(self.handle, NUMBERS[register], byref(value)))
        return value.value

    def write(self, register: int, value: int) -> None:
        """Change a general register of the set."""
        _check(_lib.uc_context_reg_write(self.handle, NUMBERS[register], byref(c_uint64(value))))


class Batch:
    """General registers that are read together, in one call."""

    def __init__(self, registers: Iterable[int]) -> None:
        numbers = tuple(NUMBERS[register] for register in registers)
        self._count = len(numbers)
        self._numbers = (c_int * self._count)(*numbers)
        self._values = (c_uint64 * self._count)()
        base, size = ctypes.addressof(self._values), ctypes.sizeof(c_uint64)
        self._pointers = (c_void_p * self._count)(*(base + size * i for i in range(self._count)))

    def read(self, emulator: "Emulator") -> list[int]:
        """The values, in the order in which the registers were given."""
        _lib.uc_reg_read_batch(emulator.handle, self._numbers, self._pointers, self._count)
        return self._values[:]


class Emulator:
    """One x86-64 emulator with its physical memory and a TLB that a callback fills."""

    def __init__(self) -> None:
        self.handle = c_void_p()
        library.finish_preload()
        self.handle, self._no_exit_request = _spare.pop() if _spare else _open()
        self._close = _lib.uc_close
        self._callbacks: dict[int, object] = {}
        self._error: BaseException | None = None
        self._cell = c_uint64()
        self._cell_at = byref(self._cell)
        self._code_hooks: set[int] = set()
        self._limit = 0
        self._mode = threading.RLock()  # a signal handler may ask for a stop
        self._stop_requested = c_uint64()
        self._poll: int | None = None

    def __del__(self) -> None:
        if self.handle:
            self._close(self.handle)

    def stop_between_blocks_only(self, wanted: bool) -> None:
        """Whether a stop comes at the start of a block of code only, which is faster. Hooks on
        single instructions can only stop where Unicorn looks within blocks. Then a request from
        another thread must not become Unicorn's own but at the start of one.
        """
        if self._no_exit_request.value == wanted:
            return
        with self._mode:
            self._no_exit_request.value = wanted
            if not wanted:
                self._poll = self._poll_for_stop()
            elif self._poll is not None:
                self.remove_hook(self._poll)
                self._poll = None
        self.flush_translations()

    def _poll_for_stop(self) -> int:
        """Let each block of code look whether it should stop; return the hook.

        A hook in Python would cost a microsecond for each block; so this one is written in
        machine code:

            cmp byte ptr [rcx], 0       ; rcx: the hook's user data, our flag
            jne stop
            ret
        stop: mov rax, uc_emu_stop      ; with the emulator still in rdi
            jmp rax
        """
        target = ctypes.cast(_lib.uc_emu_stop, c_void_p).value or 0
        code = b"\x80\x39\x00\x75\x01\xc3\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0"
        self._stop_code = mmap.mmap(
            -1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        )
        self._stop_code.write(code)
        callback = c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self._stop_code)))
        return self._hook(_HOOK_BLOCK, callback, data=byref(self._stop_requested))

    def map_memory(self, size: int, host_address: int) -> None:
        """Make `size` bytes of the host's memory the physical memory from 0 on."""
        _check(_lib.uc_mem_map_ptr(self.handle, 0, size, PROT_ALL, host_address))

    def flush_tlb(self) -> None:
        """Forget all address translations."""
        _control(self.handle, _CTL_TLB_FLUSH)

    def flush_translations(self) -> None:
        """Forget all translated code."""
        _control(self.handle, _CTL_TB_FLUSH)

    def _hook(
        self,
        kind: int,
        callback: object,
        begin: int = 1,
        end: int = 0,
        *extra: object,
        data: object = None,
    ) -> int:
        number = c_size_t()
        _check(
            _lib.uc_hook_add(
                self.handle,
                byref(number),
                c_int(kind),
                callback,
                data,
                c_uint64(begin),
                c_uint64(end),
                *extra,
            )
        )
        self._callbacks[number.value] = callback
        return number.value

    def on_tlb_fill(self, fill: TlbFill) -> int:
        """Call `fill(address, kind, entry)` for an address that is not in the TLB; it fills
        the entry in, or returns False to stop. Return the hook."""

        def callback(_uc: int, address: int, kind: int, entry: object, _data: int) -> bool:
            try:
                return fill(address, kind, entry.contents)  # type: ignore[attr-defined]
            except BaseException as error:
                self._keep(error)
                return False

        return self._hook(_HOOK_TLB_FILL, _TLB_FILL(callback))

    def on_syscall(self, call: Callable[[], None]) -> None:
        """Call `call()` when a `syscall` instruction was executed."""

        def callback(_uc: int, _data: int) -> None:
            try:
                call()
            except BaseException as error:
                self._keep(error)

        self._hook(_HOOK_INSN, _SYSCALL(callback), 1, 0, c_int(_INSN_SYSCALL))

    def on_interrupt(self, call: Callable[[int], None]) -> None:
        """Call `call(vector)` at an exception."""

        def callback(_uc: int, vector: int, _data: int) -> None:
            try:
                call(vector)
            except BaseException as error:
                self._keep(error)

        self._hook(_HOOK_INTR, _INTERRUPT(callback))

    def enter_user_mode(self, page: int, ram: Ram) -> None:
        """Leave ring 0, in which Unicorn starts, so that privileged instructions fault.

        Only an instruction can do that: SYSRETQ, which takes its segments from an MSR. It
        is executed in `page`, the physical address of a page of zeros, which it is again then.
        """
        ram.bytes[page : page + len(_SYSRETQ)] = _SYSRETQ

        def identity(address: int, _kind: int, entry: TlbEntry) -> bool:
            entry.paddr, entry.perms = address & -0x1000, PROT_ALL
            return True

        hook = self.on_tlb_fill(identity)
        self._write_msr(_MSR_EFER, self._read_msr(_MSR_EFER) | _EFER_SCE)
        self._write_msr(_MSR_STAR, _USER_SEGMENTS << 48)
        after = page + len(_SYSRETQ) - 1
        self.write(Reg.RCX, after)
        self.write(Reg.R11, _EFLAGS_IF)
        self.run(page, after, private.PROBE_COUNT)
        self._counter = private.find_counter(self.handle)
        # Without a limit: Unicorn removes its counting code now, while the page is mapped.
        self.run(after, after + 1, 0)
        self.remove_hook(hook)
        self.flush_translations()
        self.flush_tlb()
        ram.bytes[page : page + len(_SYSRETQ)] = bytes(len(_SYSRETQ))

    @property
    def pc(self) -> int:
        """The address of the instruction that executes, or is next to execute."""
        return self.read(Reg.RIP)

    @property
    def executed(self) -> int:
        """How many instructions the last `run` with a limit executed."""
        return min(self._counter.value, self._limit)  # it counts the one that it stops at

    def _read_msr(self, number: int) -> int:
        cell = _Msr(number, 0)
        _check(_lib.uc_reg_read(self.handle, UcReg.MSR, byref(cell)))
        return int(cell.value)

    def _write_msr(self, number: int, value: int) -> None:
        _check(_lib.uc_reg_write(self.handle, UcReg.MSR, byref(_Msr(number, value))))

    def on_port_access(self, call: Callable[[], None]) -> None:
        """Call `call()` at an IN or OUT instruction, which Unicorn does in any ring."""

        def read_port(_uc: int, _port: int, _size: int, _data: int) -> int:
            call()
            return 0

        def write_port(_uc: int, _port: int, _size: int, _value: int, _data: int) -> None:
            call()

        self._hook(_HOOK_INSN, _PORT_READ(read_port), 1, 0, c_int(_INSN_IN))
        self._hook(_HOOK_INSN, _PORT_WRITE(write_port), 1, 0, c_int(_INSN_OUT))

    def add_code_hook(self, address: int, call: Callable[[int], None]) -> int:
        """Call `call(address)` before the instruction at `address`; return the hook."""

        def callback(_uc: int, at: int, _size: int, _data: int) -> None:
            try:
                call(at)
            except BaseException as error:
                self._keep(error)

        hook = self._hook(_HOOK_CODE, _CODE(callback), address, address)
        self._code_hooks.add(hook)
        return hook

    def remove_hook(self, number: int) -> None:
        """Undo `add_code_hook`."""
        _check(_lib.uc_hook_del(self.handle, number))
        del self._callbacks[number]
        self._code_hooks.discard(number)

    def _keep(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        _lib.uc_emu_stop(self.handle)

    def run(self, start: int, until: int, count: int) -> int:
        """Execute from `start` up to `until`, at most `count` instructions (0: no limit).

        Returns Unicorn's status (`ERR_OK`, `ERR_INSN_INVALID`...); raises what a callback
        raised.
        """
        self.stop_between_blocks_only(not (count or self._code_hooks))
        return self.start(start, until, count)

    def start(self, start: int, until: int, count: int) -> int:
        """The same, with stops where `stop_between_blocks_only` has set them."""
        self._stop_requested.value = 0
        self._limit = count
        status: int = _lib.uc_emu_start(self.handle, start, until, 0, count)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return status

    def stop(self) -> None:
        """From within a callback: make `run` return."""
        _lib.uc_emu_stop(self.handle)

    def request_stop(self) -> None:
        """From another thread: make `run` return at the start of the next block of code, so
        that the registers are right and the program can continue later."""
        with self._mode:
            self._stop_requested.value = 1
            if self._no_exit_request.value:
                _lib.uc_emu_stop(self.handle)

    def read(self, register: int) -> int:
        """The value of a general register."""
        self._cell.value = 0
        _lib.uc_reg_read(self.handle, NUMBERS[register], self._cell_at)
        return self._cell.value

    def write(self, register: int, value: int) -> None:
        """Set a general register."""
        self._cell.value = value
        _lib.uc_reg_write(self.handle, NUMBERS[register], self._cell_at)

    def read_wide(self, number: int, size: int) -> bytes:
        """A register of up to 16 bytes, by Unicorn's number."""
        buffer = (ctypes.c_ubyte * 16)()
        _check(_lib.uc_reg_read(self.handle, number, buffer))
        return bytes(buffer)[:size]

    def write_wide(self, number: int, value: bytes) -> None:
        """Set a register of up to 16 bytes, by Unicorn's number."""
        buffer = (ctypes.c_ubyte * 16)(*value)
        _check(_lib.uc_reg_write(self.handle, number, buffer))

    def save(self) -> SavedRegisters:
        """All registers, for `restore`."""
        saved = SavedRegisters(self)
        _check(_lib.uc_context_save(self.handle, saved.handle))
        return saved

    def restore(self, saved: SavedRegisters) -> None:
        """Load saved registers."""
        _check(_lib.uc_context_restore(self.handle, saved.handle))
