"""The vDSO: the kernel's own shared object, mapped into every program.

The image is one of a Linux kernel, by default the host's (`samepage.kernel.vdso_image`), so that
a program finds the same symbols, and touches the same pages of it, as natively. Its functions
read the time from the `[vvar]` pages. Ours have no usable clock source
(VDSO_CLOCKMODE_NONE): `clock_gettime` then falls back to the system call. Only the coarse
clocks and `time`, which need no clock source, are answered from `[vvar]`; the kernel
keeps those words up to date (`update_vsyscall`).
"""

from samepage.abi.time import NS, Clock
from samepage.arch import PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.mm.frames import FrameKind, Frames
from samepage.kernel.vdso_image import TIMESTAMP, VdsoImage


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
            at = self.image.basetime + clock * TIMESTAMP.size
            TIMESTAMP.pack_into(self._data, at, now // NS, now % NS)
