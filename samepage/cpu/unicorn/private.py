"""What reaches into Unicorn's private state. Nothing else does.

Two fields of `uc_struct` are used that no function of Unicorn's reads or sets. They are not at
fixed places, so they are looked for by what a public call does to them; where that does not give
exactly one place, this version is not one that we know, and `EngineError` names it. `self_test`
shows that the fields still do what they are used for.

`no_exit_request` (a flag, made for another processor). Unicorn looks for a request to stop at the
start of each block of code, where a stop is exact, and again after each load and each store. The
second only serves hooks that we do not have; it takes a third of the emulator's time, and a
request from another thread would be seen between the store of `add [mem], 1` and the end of the
instruction, which would be executed again. The flag switches the second off.

The counter of instructions. `uc_emu_start` takes a limit, but does not report how much of it was
used.
"""

import ctypes
from collections.abc import Callable
from ctypes import c_bool, c_size_t, c_void_p

from samepage.cpu.engine import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

STATE_SIZE = 4096
"""How much of `uc_struct` is looked at, in bytes."""
_INIT_DONE_ONLY = 1 << 24
"""`hook_insert`, `first_tb`, `no_exit_request`, `init_done`, and padding."""
_NO_EXIT_REQUEST = 2
PROBE_COUNT = 0x5A3C_17E9_0001
"""A limit of instructions that no other word of the state is equal to."""


def find_no_exit_request(handle: c_void_p, initialise: Callable[[], None]) -> c_bool:
    """The field `no_exit_request` of a new emulator, which is off.

    `initialise` makes the first call that initialises it. The field lies between flags that
    are off and `init_done`, which that call turns on; a padded word holds all of them.
    """
    before = ctypes.string_at(handle, STATE_SIZE)
    initialise()
    after = ctypes.string_at(handle, STATE_SIZE)
    words = zip(memoryview(before).cast("Q"), memoryview(after).cast("Q"), strict=True)
    places = [at for at, change in enumerate(words) if change == (0, _INIT_DONE_ONLY)]
    if len(places) != 1:
        raise _unknown("has no field that makes stops exact")
    return c_bool.from_address((handle.value or 0) + 8 * places[0] + _NO_EXIT_REQUEST)


def find_counter(handle: c_void_p) -> c_size_t:
    """Where the emulator counts instructions. In its state the counter lies before the limit,
    which was just `PROBE_COUNT`, to execute one instruction."""
    size = ctypes.sizeof(c_size_t)
    base = handle.value or 0
    words = (c_size_t * (STATE_SIZE // size)).from_address(base)
    places = [at for at in range(1, len(words)) if words[at] == PROBE_COUNT]
    if len(places) != 1 or words[places[0] - 1] != 1:
        raise _unknown("has no counter of instructions before their limit")
    return c_size_t.from_address(base + (places[0] - 1) * size)


def self_test() -> None:
    """Check on an emulator of its own that both fields do what they are for. Raises
    `EngineError` with the version of Unicorn."""
    from samepage.arch import PAGE_SIZE
    from samepage.cpu.ram import Ram
    from samepage.cpu.unicorn.emulator import PROT_ALL, Emulator, TlbEntry

    def identity(address: int, _kind: int, entry: TlbEntry) -> bool:
        entry.paddr, entry.perms = address & -PAGE_SIZE, PROT_ALL
        return True

    emulator, ram = Emulator(), Ram(2 * PAGE_SIZE)
    emulator.map_memory(ram.size, ram.host_address)
    ram.bytes[PAGE_SIZE : PAGE_SIZE + len(_LOOP)] = _LOOP
    emulator.enter_user_mode(0, ram)
    emulator.on_tlb_fill(identity)
    emulator.run(PAGE_SIZE, 0, _COUNT)
    if emulator.executed != _COUNT:
        raise _unknown(f"counted {emulator.executed} instructions of {_COUNT}")
    emulator.add_code_hook(PAGE_SIZE + 1, lambda _address: emulator.stop())
    for only_between_blocks, ends_at in ((False, PAGE_SIZE + 1), (True, PAGE_SIZE)):
        emulator.stop_between_blocks_only(only_between_blocks)
        emulator.start(PAGE_SIZE, 0, 0)
        if emulator.pc != ends_at:
            raise _unknown("does not keep the field that makes stops exact")


_LOOP = b"\x90" * 5 + b"\xeb\xf9"
"""Five NOPs, and a jump to the first: one block."""
_COUNT = 100


def _unknown(what: str) -> EngineError:
    from importlib.metadata import PackageNotFoundError, version

    try:
        wheel = f"version {version('unicorn')}"
    except PackageNotFoundError:
        wheel = "unknown version"
    return EngineError(f"this Unicorn ({wheel}) {what}: install the version that samepage names")
