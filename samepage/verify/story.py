"""What one side knows about a page: its VMA, its frame, and how it came there."""

from collections.abc import Iterator

import numpy as np

from samepage.snapshot.columns import PAGE_SHIFT, Event
from samepage.snapshot.kinds import FrameKind, PageFlags
from samepage.verify.side import Side, VmaRow

_KIND_WORDS = {
    FrameKind.UNKNOWN: "an unknown frame",
    FrameKind.ANON: "an anonymous frame",
    FrameKind.SHMEM: "a frame of shared memory",
    FrameKind.ZERO: "the zero page",
    FrameKind.SPECIAL: "a page of the kernel's own",
    FrameKind.KSM: "a KSM page",
    FrameKind.HUGETLB: "a huge page",
}


_AROUND = "file read fault"
"""The kind of event that maps neighbours too."""


def describe_vma(vma: VmaRow | None) -> str:
    """A VMA as a line of `/proc/PID/maps`."""
    if vma is None:
        return "no VMA"
    span = f"{vma.start:x}-{vma.end:x}"
    return f"{span} {vma.perms} {vma.offset:08x} {vma.name}".rstrip()


def describe_page(side: Side, process: int, vpage: int) -> str:
    """The page's VMA and frame, and the last event that touched it if events are known."""
    vma = _vma_at(side, process, vpage)
    pages = side.pages[process]
    at = pages.find(vpage)
    if at < 0:
        what = "not present"
    else:
        dirty = "dirty" if pages.flags[at] & np.uint16(PageFlags.DIRTY) else "clean"
        what = f"{_describe_frame(side, process, at)}, {dirty}"
    event = _last_event(side, process, vpage)
    return f"{what}; in {describe_vma(vma)}" + (f"; {event}" if event else "")


def _describe_frame(side: Side, process: int, at: int) -> str:
    pages = side.pages[process]
    kind = FrameKind(int(pages.kind[at]))
    number = f" {int(pages.frame[at])}" if pages.frame[at] else ""
    if kind is FrameKind.FILE:
        file = int(pages.file[at])
        path = side.paths[file] if file >= 0 else "an unknown file"
        return f"page {int(pages.index[at])} of {path} (frame{number})"
    return _KIND_WORDS[kind] + (f" ({number.strip()})" if number else "")


def _vma_at(side: Side, process: int, vpage: int) -> VmaRow | None:
    address = vpage << PAGE_SHIFT
    for vma in side.vmas[process]:
        if vma.start <= address < vma.end:
            return vma
    return None


def _last_event(side: Side, process: int, vpage: int) -> str:
    """The last event at the page, else the last fault that may have mapped it on the way:
    fault-around maps up to `pages` pages on either side of the one at fault."""
    mine = [event for event in side.snapshot.events if event.pid == side.pids[process]]
    here = [event for event in mine if event.address >> PAGE_SHIFT == vpage]
    if here:
        return " ".join(_describe_event(here[-1]))
    around = [
        event
        for event in mine
        if event.kind == _AROUND and abs((event.address >> PAGE_SHIFT) - vpage) < event.pages
    ]
    if not around or side.pages[process].find(vpage) < 0:
        return ""
    where = f"{around[-1].address >> PAGE_SHIFT << PAGE_SHIFT:x}"
    return f"mapped around {where} by " + " ".join(_describe_event(around[-1]))


def _describe_event(event: Event) -> Iterator[str]:
    yield f"event {event.order}: {event.kind}"
    if event.ip:
        yield f"at ip {event.ip:x}"
    if event.symbol:
        yield f"in {event.symbol}"
