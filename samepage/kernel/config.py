"""How a machine is booted: the kernel's command line and configuration."""

from samepage.kernel.mm.address_space import MMAP_MIN_ADDR
from samepage.kernel.mm.page_cache import VM_READAHEAD_PAGES
from samepage.kernel.rules import NEWEST, KernelRules
from samepage.kernel.vdso_image import VdsoImage
from samepage.records import record

TIME_SLICE = 256
"""How many system calls a task may make while others could run."""


@record(frozen=True)
class KernelConfig:
    """What is decided before the machine boots, and never changes.

    `ram` is in bytes. `epoch_ns` is the time of day at boot. `cold` starts with an empty
    page cache, so that file pages are read in with major faults. `max_instructions` 0 is
    no limit. `events` reports what happens to address spaces to the tracers. `debug` checks
    the kernel's invariants while it runs (see `debug`).
    """

    epoch_ns: int
    ram: int = 4 << 30
    cold: bool = False
    seed: int = 0
    max_instructions: int = 0
    events: bool = False
    debug: bool = False
    readahead: int = VM_READAHEAD_PAGES
    """How many pages of a file are read ahead at most (`read_ahead_kb` of its device)."""
    mmap_min_addr: int = MMAP_MIN_ADDR
    time_slice: int = TIME_SLICE
    hostname: str = "samepage"
    domain: str = "(none)"
    release: str = "6.18.0"
    version: str = "#1 SMP PREEMPT_DYNAMIC"
    rules: KernelRules = NEWEST
    """Those of the version that programs are shown as `release`."""
    hwcap2: int = 2
    """AT_HWCAP2: FSGSBASE."""
    min_sigstack_size: int = 1776
    """AT_MINSIGSTKSZ."""
    xstate_size: int = 0
    """Bytes of registers in a signal frame, if more than the engine's CPU saves."""
    vdso: VdsoImage | None = None
    """What is mapped into every program; None for no vDSO."""
