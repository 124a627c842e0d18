"""The image of a vDSO, as a Linux kernel has it, and that of the host's.

Where the kernel keeps the time in `[vvar]` depends on the version that built the image;
`_find_basetime` finds it by looking for the present time in the host's own `[vvar]`.
"""

import ctypes
import struct
import time

from samepage.abi.time import NS, Clock
from samepage.arch import PAGE_SIZE
from samepage.records import record

TIMESTAMP = struct.Struct("<QQ")
"""Seconds, and nanoseconds, of one clock in `[vvar]`."""
_VDSO_BASES = 12


@record(frozen=True)
class VdsoImage:
    """What a kernel maps: the object, and the lengths of the data areas before it (bytes)."""

    code: bytes
    vvar_size: int
    vclock_size: int
    basetime: int
    """The offset in `[vvar]` of `basetime[CLOCK_REALTIME]`."""
    resolution: int | None
    """The offset of `hrtimer_res`, None if it was not found."""


def host_image() -> VdsoImage | None:
    """The vDSO of the running kernel; None if it has none that we understand."""
    areas: dict[str, tuple[int, int]] = {}
    with open("/proc/self/maps", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    for line in lines:
        if line.endswith(("[vdso]", "[vvar]", "[vvar_vclock]")):
            start, _, end = line.partition(" ")[0].partition("-")
            areas[line.rpartition("[")[2][:-1]] = (int(start, 16), int(end, 16))
    if not {"vdso", "vvar"} <= areas.keys():
        return None
    image, image_end = areas["vdso"]
    vvar, vvar_end = areas["vvar"]
    # The time data are in the first page; the pages behind it may not be readable.
    page = ctypes.string_at(vvar, PAGE_SIZE)
    basetime = _find_basetime(page)
    if basetime is None:
        return None
    vclock = areas.get("vvar_vclock", (0, 0))
    return VdsoImage(
        ctypes.string_at(image, image_end - image),
        vvar_end - vvar,
        vclock[1] - vclock[0],
        basetime,
        _find_resolution(page, basetime),
    )


def _find_basetime(page: bytes) -> int | None:
    now = int(time.time())
    for offset in range(0, PAGE_SIZE - 6 * TIMESTAMP.size, 8):
        real = TIMESTAMP.unpack_from(page, offset)[0]
        coarse = TIMESTAMP.unpack_from(page, offset + Clock.REALTIME_COARSE * 16)[0]
        if abs(real - now) <= 2 and abs(coarse - now) <= 2:
            return offset
    return None


def _find_resolution(page: bytes, basetime: int) -> int | None:
    """Where the resolution of the clocks is: behind the array of `struct vdso_clock`, which
    has 2 elements or, with auxiliary clocks (6.17), 10, and behind two words on the time zone.
    Each element ends with its base times."""
    size = basetime + _VDSO_BASES * TIMESTAMP.size
    wanted = round(time.clock_getres(time.CLOCK_MONOTONIC) * NS)
    for count in (10, 2):
        at = count * size + 8
        if at + 4 <= PAGE_SIZE and int.from_bytes(page[at : at + 4], "little") == wanted:
            return at
    return None
