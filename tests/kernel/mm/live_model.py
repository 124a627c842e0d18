"""The model's side of the differential test: the same operations, the same picture."""

import os
from pathlib import Path

from samepage.abi.mman import MapFlags
from samepage.arch import Access
from samepage.arch.x86_64.paging import Pte
from samepage.kernel.errors import SysError
from samepage.kernel.mm.fault import FaultResult, handle_mm_fault
from samepage.kernel.mm.fork import dup_mmap
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.mm.madvise import do_madvise
from samepage.kernel.mm.mlock import do_mlock, do_munlock
from samepage.kernel.mm.mmap import do_mmap, do_munmap
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.mm.mremap import do_mremap
from samepage.kernel.mm.msync import do_mincore, do_msync
from samepage.kernel.mm.readahead import FileRa
from samepage.kernel.mm.vma import Vma, VmFlags
from tests.kernel.mm.mm_helpers import Memory, MemoryFile

MNEMONICS = {
    "rd": VmFlags.READ,
    "wr": VmFlags.WRITE,
    "ex": VmFlags.EXEC,
    "sh": VmFlags.SHARED,
    "mr": VmFlags.MAYREAD,
    "mw": VmFlags.MAYWRITE,
    "me": VmFlags.MAYEXEC,
    "ms": VmFlags.MAYSHARE,
    "gd": VmFlags.GROWSDOWN,
    "lo": VmFlags.LOCKED,
    "sr": VmFlags.SEQ_READ,
    "rr": VmFlags.RAND_READ,
    "dc": VmFlags.DONTCOPY,
    "lf": VmFlags.LOCKONFAULT,
    "ac": VmFlags.ACCOUNT,
    "nr": VmFlags.NORESERVE,
    "wf": VmFlags.WIPEONFORK,
    "dd": VmFlags.DONTDUMP,
    "hg": VmFlags.HUGEPAGE,
    "nh": VmFlags.NOHUGEPAGE,
    "mg": VmFlags.MERGEABLE,
}


def read_ahead_pages() -> int:
    """The largest readahead window of the disk that holds the agent's file."""
    device = os.stat("/var/tmp").st_dev
    base = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for path in (f"{base}/queue/read_ahead_kb", f"{base}/../queue/read_ahead_kb"):
        if os.path.exists(path):
            return int(Path(path).read_text()) // 4
    return 32


class OpenFile:
    """What a mapping needs of an open file description."""

    shown_name = ""
    write_sealed = False
    unlinked = False

    def __init__(self) -> None:
        self.ra = FileRa()


class Model:
    """Does what `live_agent` does."""

    def __init__(self, arena: int, pages: int, data: bytes, size: int = 32 << 20) -> None:
        self.memory = Memory(size)
        self.arena, self.pages = arena, pages
        self.mm = self.memory.space()
        self.mm.limits.privileged = True
        self.file = MemoryFile(data)
        self.memory.cache.ra_pages = read_ahead_pages()
        # The agent has written its file, so that it is cached.
        self.memory.cache.fill(self.file, 0, len(data) >> 12, 0)
        shmem = self.memory.cache.shmem.create(24 << 12, "/memfd:m (deleted)")
        shmem.handles = 1
        self.files = {name: (self.file, OpenFile(), "file") for name in ("a", "b", "ro")}
        self.files["mem"] = (shmem, OpenFile(), "memfd:m")
        self.files["zero"] = (None, OpenFile(), "zero")
        self.children = []
        self.parents = []

    def do(self, name, *args):
        try:
            return getattr(self, f"do_{name}")(*args)
        except SysError as error:
            return -error.errno

    def do_touch(self, address, write):
        access = Access.WRITE if write else Access.READ
        before = self.mm.faults.minor
        while True:
            entry = self.mm.table.get(address)
            if entry & Pte.PRESENT and (not write or entry & Pte.WRITE):
                slot = self.mm.table.slot(address)
                bits = Pte.ACCESSED | (Pte.DIRTY if write else 0)
                self.memory.frames.ram.words[slot] = entry | bits
                return [1, self.mm.faults.minor - before]
            if handle_mm_fault(self.mm, address, access) is not FaultResult.OK:
                return [-1, self.mm.faults.minor - before]

    def do_mmap(self, address, length, prot, flags, fd, offset):
        if fd is None:
            return do_mmap(self.mm, address, length, prot, flags)
        file, ra, path = self.files[fd]
        flags &= ~MapFlags.ANONYMOUS
        return do_mmap(
            self.mm,
            address,
            length,
            prot,
            flags,
            file,
            offset,
            path=path,
            filp=ra,
            may_write=fd != "ro",
            zero_device=fd == "zero",
        )

    def do_munmap(self, *args):
        return do_munmap(self.mm, *args) or 0

    def do_mprotect(self, *args):
        return do_mprotect(self.mm, *args) or 0

    def do_mremap(self, *args):
        return do_mremap(self.mm, *args)

    def do_madvise(self, *args):
        return do_madvise(self.mm, *args) or 0

    def do_msync(self, *args):
        return do_msync(self.mm, *args) or 0

    def do_mlock(self, *args):
        return do_mlock(self.mm, *args) or 0

    def do_mlock2(self, *args):
        return do_mlock(self.mm, *args) or 0

    def do_munlock(self, *args):
        return do_munlock(self.mm, *args) or 0

    def do_mincore(self, *args):
        return do_mincore(self.mm, *args).hex()

    def do_fork(self):
        self.children.append(dup_mmap(self.mm))
        return 0

    def do_reap(self):
        if self.children:
            self.children.pop().destroy()
        return 0

    def do_descend(self):
        self.parents += [self.mm, *self.children]
        self.children = []
        self.mm = dup_mmap(self.mm)
        self.mm.limits.privileged = True
        return 0

    def do_truncate(self, fd, size):
        if fd != "mem" and self.file.size < size:
            return 0
        self.memory.cache.truncate(self.files[fd][0], size)
        return 0

    def look(self):
        end = self.arena + (self.pages << 12)
        kinds = self.memory.frames.kinds
        present = []
        for address, _, entry in self.mm.table.present(self.arena, end):
            pfn = (entry & Pte.FRAME) >> 12
            filed = kinds[pfn] in (FrameKind.FILE, FrameKind.SHMEM)
            zero = kinds[pfn] == FrameKind.ZERO
            present.append([(address - self.arena) >> 12, pfn, int(filed), int(zero)])
        vmas = [self.vma(v) for v in self.mm.vmas.overlapping(self.arena, end)]
        return {"vmas": vmas, "present": present}

    def vma(self, vma: Vma):
        flags = vma.flags
        perms = "".join(c if flags & 1 << n else "-" for n, c in enumerate("rwx"))
        perms += "s" if flags & VmFlags.MAYSHARE else "p"
        has_file = vma.file is not None or vma.path
        sums = dict.fromkeys(
            ("Rss", "Anonymous", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty"),
            0,
        )
        frames = self.memory.frames
        for _, _, entry in self.mm.table.present(vma.start, vma.end):
            pfn = (entry & Pte.FRAME) >> 12
            kind = frames.kinds[pfn]
            if kind == FrameKind.ZERO:
                continue
            sums["Rss"] += 4
            dirty = entry & Pte.DIRTY or pfn in self.memory.cache.dirty
            who = "Shared" if frames.mapcount[pfn] > 1 else "Private"
            sums[f"{who}_{'Dirty' if dirty else 'Clean'}"] += 4
            if kind == FrameKind.ANONYMOUS:
                sums["Anonymous"] += 4
        name = vma.path.rsplit("/", 1)[-1] if has_file else ""
        offset = vma.pgoff << 12 if has_file else 0
        sums["flags"] = sorted(n for n, bit in MNEMONICS.items() if flags & bit)
        return [vma.start, vma.end, perms, offset, name.split(" ")[0], sums]
