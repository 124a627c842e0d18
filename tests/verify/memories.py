"""Small snapshots to compare: two processes that share frames of files and of memory."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

DIRTY = int(PageFlags.DIRTY)
PRESENT = int(PageFlags.PRESENT)


@dataclass
class Frame:
    number: int
    kind: FrameKind
    file: str = ""
    index: int = -1


@dataclass
class Memory:
    """What a test describes; `build` makes the snapshot of it."""

    vmas: dict[int, list[tuple[int, int, str, int, str]]] = field(default_factory=dict)
    pages: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    frames: dict[int, Frame] = field(default_factory=dict)
    faults: dict[int, tuple[int, int]] = field(default_factory=dict)

    def build(self, source: str = "model") -> Snapshot:
        builder = SnapshotBuilder(source)
        paths = sorted({vma[4] for vmas in self.vmas.values() for vma in vmas} - {""})
        files = {
            path: builder.add_file(1, 100 + ord(path[1]), path)
            for path in paths
            if path.startswith("/")
        }
        for pid, vmas in self.vmas.items():
            minor, major = self.faults.get(pid, (0, 0))
            builder.add_process(Process(pid, minor_faults=minor, major_faults=major))
            for start, end, perms, offset, name in vmas:
                builder.add_vma(
                    pid, start << 12, end << 12, perms, offset, files.get(name, -1), name
                )
            mine = sorted((v, f) for (p, v), f in self.pages.items() if p == pid)
            builder.add_pages(
                pid,
                [vpage for vpage, _ in mine],
                [frame for _, (frame, _) in mine],
                [flags for _, (_, flags) in mine],
            )
        frames = sorted(self.frames.values(), key=lambda frame: frame.number)
        builder.add_frames(
            [frame.number for frame in frames],
            [frame.kind for frame in frames],
            [files.get(frame.file, -1) for frame in frames],
            [frame.index for frame in frames],
            [1] * len(frames),
            [0] * len(frames),
        )
        return builder.build()

    def copy(self) -> "Memory":
        return Memory(
            {pid: list(vmas) for pid, vmas in self.vmas.items()},
            dict(self.pages),
            {n: Frame(f.number, f.kind, f.file, f.index) for n, f in self.frames.items()},
            dict(self.faults),
        )

    def renamed(self, shift: int, pids: dict[int, int]) -> "Memory":
        """The same memory with other frame numbers (reversed and shifted) and pids."""
        top = max(self.frames, default=0) + shift

        def number(old: int) -> int:
            return top - old + 1

        return Memory(
            {pids[pid]: vmas for pid, vmas in self.vmas.items()},
            {(pids[p], v): (number(f), flags) for (p, v), (f, flags) in self.pages.items()},
            {number(n): Frame(number(n), f.kind, f.file, f.index) for n, f in self.frames.items()},
            {pids[pid]: counts for pid, counts in self.faults.items()},
        )


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Two processes that map two files and some anonymous memory, partly shared."""
    memory = Memory()
    next_frame = iter(range(1, 1000))
    cached: dict[tuple[str, int], int] = {}
    anonymous: list[int] = []
    zero = next(next_frame)
    memory.frames[zero] = Frame(zero, FrameKind.ZERO)
    for pid in (10, 20):
        memory.faults[pid] = (draw(st.integers(0, 50)), draw(st.integers(0, 2)))
        memory.vmas[pid] = [
            (100, 108, "r-xp", 0, "/a"),
            (200, 206, "rw-p", 4096, "/b"),
            (300, 306, "rw-p", 0, ""),
        ]
        for start, end, perms, offset, name in memory.vmas[pid]:
            for vpage in range(start, end):
                choice = draw(st.sampled_from(["absent", "cache", "own", "shared"]))
                if choice == "absent":
                    continue
                flags = PRESENT
                if choice == "cache" and name:
                    key = (name, vpage - start + offset // 4096)
                    if key not in cached:
                        cached[key] = next(next_frame)
                        memory.frames[cached[key]] = Frame(
                            cached[key], FrameKind.FILE, name, key[1]
                        )
                    frame = cached[key]
                elif choice == "cache":
                    frame = zero
                elif choice == "shared" and anonymous and pid == 20 and "w" in perms:
                    frame = draw(st.sampled_from(anonymous))
                    flags |= DIRTY
                else:
                    frame = next(next_frame)
                    memory.frames[frame] = Frame(frame, FrameKind.ANON)
                    flags |= DIRTY
                    if pid == 10:
                        anonymous.append(frame)
                memory.pages[pid, vpage] = (frame, flags)
    return memory
