"""What a machine takes over from the kernel that it is to be compared with.

By default that is the kernel of this system. Where a run of another kernel was recorded, the
recording has the same facts of that one.
"""

from __future__ import annotations

import os

from samepage.abi.auxv import Aux, parse_auxv
from samepage.kernel.fs.hostcalls import sysctl
from samepage.kernel.mm.address_space import MMAP_MIN_ADDR
from samepage.kernel.vdso_image import VdsoImage, host_image
from samepage.records import record

_MINSIGSTKSZ = 2048
"""What Linux had before it depended on the CPU (asm/signal.h of x86)."""


@record(frozen=True)
class Host:
    """One kernel, on one CPU: the names that `uname` has, and what programs find mapped.

    `min_sigstack_size` is AT_MINSIGSTKSZ, `mmap_min_addr` the lowest address that an ordinary
    user may map. `vdso` is None where there is none that we understand.
    """

    hostname: str
    release: str
    version: str
    min_sigstack_size: int
    mmap_min_addr: int
    vdso: VdsoImage | None


def this_host() -> Host:
    """The kernel that runs this process."""
    name = os.uname()
    return Host(
        name.nodename,
        name.release,
        name.version,
        _auxiliary_vector().get(Aux.MINSIGSTKSZ, _MINSIGSTKSZ),
        sysctl("vm/mmap_min_addr", MMAP_MIN_ADDR),
        host_image(),
    )


def _auxiliary_vector() -> dict[int, int]:
    try:
        with open("/proc/self/auxv", "rb") as file:
            return parse_auxv(file.read())
    except OSError:
        return {}
