"""The vDSO: the kernel's own shared object, mapped into every program.

The image is the one that the host's kernel gives to our own process, so that a program
finds the same symbols, and touches the same pages of it, as natively. Its functions read
the time from the `[vvar]` pages. Ours say that there is no usable clock source
(VDSO_CLOCKMODE_NONE): `clock_gettime` then falls back to the system call. Only the coarse
clocks and `time`, which need no clock source, are answered from `[vvar]`; the kernel
keeps those words up to date (`update_vsyscall`).

Where the words are depends on the kernel that built the image; `_find_basetime` finds
them by looking for the present time in the host's own `[vvar]`.
"""

import ctypes
import struct
import time

from samepage.abi.time import NS, Clock
from samepage.arch import PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.mm.frames import FrameKind, Frames
from samepage.records import record

_TIMESTAMP = struct.Struct("<QQ")
_VDSO_BASES = 12


@record(frozen=True)
class VdsoImage:
    """What the host maps: the object, and the lengths of the data areas before it (bytes)."""

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
    for offset in range(0, PAGE_SIZE - 6 * _TIMESTAMP.size, 8):
        real = _TIMESTAMP.unpack_from(page, offset)[0]
        coarse = _TIMESTAMP.unpack_from(page, offset + Clock.REALTIME_COARSE * 16)[0]
        if abs(real - now) <= 2 and abs(coarse - now) <= 2:
            return offset
    return None


def _find_resolution(page: bytes, basetime: int) -> int | None:
    """Where the resolution of the clocks is: behind the array of `struct vdso_clock`, which
    has 2 elements or, with auxiliary clocks (6.17), 10, and behind two words on the time zone.
    Each element ends with its base times."""
    size = basetime + _VDSO_BASES * _TIMESTAMP.size
    wanted = round(time.clock_getres(time.CLOCK_MONOTONIC) * NS)
    for count in (10, 2):
        at = count * size + 8
        if at + 4 <= PAGE_SIZE and int.from_bytes(page[at : at + 4], "little") == wanted:
            return at
    return None


class Vdso:
    """The vDSO of a machine: its frames, which all processes map."""

    def __init__(self, image: VdsoImage, frames: Frames) -> None:
        self.image = image
        self._ram = frames.ram
        self.pages: dict[tuple[str, int], int] = {}
        """(VMA name, page index) -> frame, as `AddressSpace.special_pages` wants it."""
        for index in range(len(image.code) >> PAGE_SHIFT):
            pfn = frames.allocate(FrameKind.VDSO)
            start = index << PAGE_SHIFT
            frames.ram.frame(pfn)[:] = image.code[start : start + PAGE_SIZE]
            self.pages["[vdso]", index] = pfn
        for index in range(image.vvar_size >> PAGE_SHIFT):
            self.pages["[vvar]", index] = frames.allocate_zeroed(FrameKind.KERNEL)
        self._data = self._ram.frame(self.pages["[vvar]", 0])
        if image.resolution is not None:
            self._data[image.resolution] = 1  # ns, as that of high-resolution timers

    def update(self, realtime_ns: int, monotonic_ns: int) -> None:
        """Set the coarse clocks (`update_vsyscall`)."""
        for clock, now in (
            (Clock.REALTIME, realtime_ns),
            (Clock.MONOTONIC, monotonic_ns),
            (Clock.REALTIME_COARSE, realtime_ns),
            (Clock.MONOTONIC_COARSE, monotonic_ns),
        ):
            at = self.image.basetime + clock * _TIMESTAMP.size
            _TIMESTAMP.pack_into(self._data, at, now // NS, now % NS)
