"""The comparison of two snapshots: the same memory up to a renaming of frames, or not.

For each pair of processes:

- the VMAs are the same: start, end, permissions, file and offset;
- the set of present pages is the same;
- each page has the same label: the page of which file, anonymous, the zero page, or a page
  of the kernel's own; and is dirty on both sides or on neither.

And over all processes together, the two maps (process, virtual page) -> frame agree up to
a bijection between the frames: pages that share a frame on one side share one on the other.
This is the whole claim of sharing, so it is tested in both directions.

The sums that `/proc/PID/smaps` prints follow from these, and are compared as well, as are
the fault counts. Nothing here knows which snapshot is the model's, except to name it, and
there is no tolerance: what is not compared is in `side.EXCLUDED_VMAS`, and in `Comparison`
by name.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from samepage.snapshot.columns import PAGE_SHIFT, Snapshot
from samepage.snapshot.kinds import PageFlags
from samepage.verify.difference import PAGE_KINDS, Difference, DifferenceKind
from samepage.verify.side import EXCLUDED_VMAS, ProcessPages, Side, VmaRow, same_files
from samepage.verify.story import describe_page, describe_vma
from samepage.verify.sums import Sums, group_sums

SHOWN = 10
"""How many differences of one kind are printed in full; all are counted."""

Rows = npt.NDArray[np.int64]


@dataclass(slots=True)
class Comparison:
    """What came out. `counts` holds all differences, `differences` the first of each kind.

    `pages` is how many pages of the group are the same in every respect, `total_pages` how
    many either side has, `by_process` both for each process. `excluded` are the VMAs that
    were left out, with their reasons.
    """

    pages: int = 0
    total_pages: int = 0
    by_process: list[tuple[int, int]] = field(default_factory=list)
    counts: Counter[DifferenceKind] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)

    @property
    def same_memory(self) -> bool:
        """Whether VMAs, pages, frames, labels, dirty bits and sums agree."""
        return not any(self.counts[kind] for kind in PAGE_KINDS)

    @property
    def same_minor_faults(self) -> bool:
        """Whether every process took as many minor faults on both sides."""
        return not self.counts[DifferenceKind.MINOR_FAULTS]

    @property
    def same(self) -> bool:
        """Whether there is no difference at all."""
        return not self.counts.total()


def compare(
    model: Snapshot,
    kernel: Snapshot,
    pairs: Sequence[tuple[int, int]],
    *,
    shown: int = SHOWN,
) -> Comparison:
    """Compare the processes of `pairs`, each (pid in `model`, pid in `kernel`).

    Where one side does not know its frames (`Snapshot.frames_visible`), labels, frames, and
    the sums that need map counts are not compared (the caller reports so).
    """
    result = Comparison()
    ours = Side(model, [pair[0] for pair in pairs])
    theirs = Side(kernel, [pair[1] for pair in pairs])
    names = set[str]().union(*ours.excluded, *theirs.excluded)
    result.excluded = {name: EXCLUDED_VMAS[name] for name in sorted(names)}
    files = same_files(ours, theirs)
    comparer = _Comparer(ours, theirs, files, result, shown)
    comparer.vmas()
    visible = model.frames_visible and kernel.frames_visible
    comparer.pages(visible)
    if visible:
        comparer.sums()
    comparer.faults()
    order = list(DifferenceKind)
    result.differences.sort(key=lambda d: (order.index(d.kind), d.process, d.address))
    return result


class _Comparer:
    """One comparison in progress; each method compares one thing and reports into `out`."""

    def __init__(
        self,
        ours: Side,
        theirs: Side,
        files: npt.NDArray[np.int32],
        out: Comparison,
        shown: int,
    ) -> None:
        self.ours, self.theirs, self.files = ours, theirs, files
        self.out, self.shown = out, shown

    def _report(self, kind: DifferenceKind, count: int, found: Iterable[Difference]) -> None:
        """Count `count` differences, and keep the first ones' stories."""
        self.out.counts[kind] += count
        have = sum(1 for difference in self.out.differences if difference.kind is kind)
        self.out.differences += islice(found, max(0, self.shown - have))

    def _pages_differ(
        self, kind: DifferenceKind, process: int, vpages: npt.NDArray[np.uint64]
    ) -> None:
        if len(vpages):
            found = (
                Difference(
                    kind,
                    process,
                    vpage << PAGE_SHIFT,
                    describe_page(self.ours, process, vpage),
                    describe_page(self.theirs, process, vpage),
                )
                for vpage in vpages.tolist()
            )
            self._report(kind, len(vpages), found)

    def vmas(self) -> None:
        for process in range(len(self.ours.pids)):
            left = {vma.start: vma for vma in self.ours.vmas[process]}
            right = {vma.start: vma for vma in self.theirs.vmas[process]}
            for start in sorted(left.keys() | right.keys()):
                ours, theirs = left.get(start), right.get(start)
                if ours is None or theirs is None or not self._same_vma(ours, theirs):
                    found = Difference(
                        DifferenceKind.VMA, process, start, describe_vma(ours), describe_vma(theirs)
                    )
                    self._report(DifferenceKind.VMA, 1, [found])

    def _same_vma(self, ours: VmaRow, theirs: VmaRow) -> bool:
        """By end, permissions, offset and file; by name where there is no file."""
        if (ours.end, ours.perms, ours.offset) != (theirs.end, theirs.perms, theirs.offset):
            return False
        if ours.file < 0 or theirs.file < 0:
            return ours.file == theirs.file and ours.name == theirs.name
        return bool(self.files[ours.file] == theirs.file)

    def pages(self, frames_visible: bool) -> None:
        """Presence and labels per process, then the frames over all of them."""
        common: list[tuple[ProcessPages, ProcessPages]] = []
        bad: list[npt.NDArray[np.bool_]] = []
        totals: list[int] = []
        for process in range(len(self.ours.pids)):
            ours, theirs = self.ours.pages[process], self.theirs.pages[process]
            lonely = np.setxor1d(ours.vpage, theirs.vpage, assume_unique=True)
            self._pages_differ(DifferenceKind.PRESENT, process, lonely)
            _, left, right = np.intersect1d(
                ours.vpage, theirs.vpage, assume_unique=True, return_indices=True
            )
            ours, theirs = ours.take(left), theirs.take(right)
            common.append((ours, theirs))
            wrong = np.zeros(len(left), dtype=bool)
            if frames_visible:
                labels = self._other_label(ours, theirs)
                dirty = ((ours.flags ^ theirs.flags) & np.uint16(PageFlags.DIRTY)) != 0
                self._pages_differ(DifferenceKind.LABEL, process, ours.vpage[labels])
                self._pages_differ(DifferenceKind.DIRTY, process, ours.vpage[dirty])
                wrong |= labels | dirty
            bad.append(wrong)
            totals.append(len(left) + len(lonely))
        if frames_visible and common:
            self._frames(common, bad)
        same = [int((~wrong).sum()) for wrong in bad]
        self.out.by_process = list(zip(same, totals, strict=True))
        self.out.pages, self.out.total_pages = sum(same), sum(totals)

    def _other_label(self, ours: ProcessPages, theirs: ProcessPages) -> npt.NDArray[np.bool_]:
        same_kind = ours.kind == theirs.kind
        same_file = self.files[ours.file] == theirs.file
        different: npt.NDArray[np.bool_] = ~(same_kind & same_file & (ours.index == theirs.index))
        return different

    def _frames(
        self,
        common: list[tuple[ProcessPages, ProcessPages]],
        bad: list[npt.NDArray[np.bool_]],
    ) -> None:
        """The bijection: whichever page first shows a frame decides its partner."""
        process = np.repeat(np.arange(len(common)), [len(pair[0].vpage) for pair in common])
        vpage = np.concatenate([pair[0].vpage for pair in common])
        ours = np.concatenate([pair[0].frame for pair in common])
        theirs = np.concatenate([pair[1].frame for pair in common])
        forth, back = _first_with_same(ours), _first_with_same(theirs)
        broken = (theirs != theirs[forth]) | (ours != ours[back])
        rows = np.flatnonzero(broken)
        found = self._describe_frames(rows, process, vpage, forth, back)
        self._report(DifferenceKind.FRAME, len(rows), found)
        first = 0
        for wrong in bad:
            wrong |= broken[first : first + len(wrong)]
            first += len(wrong)

    def _describe_frames(
        self,
        rows: Rows,
        process: Rows,
        vpage: npt.NDArray[np.uint64],
        forth: Rows,
        back: Rows,
    ) -> Iterator[Difference]:
        def other(row: int, partner: int) -> str:
            if partner == row:
                return "shared with no earlier page"
            where = f"{int(vpage[partner]) << PAGE_SHIFT:x} of process {int(process[partner])}"
            return f"shared with {where}"

        for row in rows.tolist():
            at, page = int(process[row]), int(vpage[row])
            yield Difference(
                DifferenceKind.FRAME,
                at,
                page << PAGE_SHIFT,
                f"{other(row, int(forth[row]))}: {describe_page(self.ours, at, page)}",
                f"{other(row, int(back[row]))}: {describe_page(self.theirs, at, page)}",
            )

    def sums(self) -> None:
        """Per VMA that both sides have, what smaps would print."""
        left, right = group_sums(self.ours), group_sums(self.theirs)
        for process in range(len(self.ours.pids)):
            by_range = {
                (vma.start, vma.end): sums
                for vma, sums in zip(self.theirs.vmas[process], right[process], strict=True)
            }
            for vma, ours in zip(self.ours.vmas[process], left[process], strict=True):
                theirs = by_range.get((vma.start, vma.end))
                if theirs is not None and ours != theirs:
                    found = describe_sums(process, vma, ours, theirs)
                    self._report(DifferenceKind.SUMS, 1, [found])

    def faults(self) -> None:
        for process in range(len(self.ours.pids)):
            ours, theirs = (side.process(process) for side in (self.ours, self.theirs))
            for kind, left, right in (
                (DifferenceKind.MINOR_FAULTS, ours.minor_faults, theirs.minor_faults),
                (DifferenceKind.MAJOR_FAULTS, ours.major_faults, theirs.major_faults),
            ):
                if left != right:
                    self._report(kind, 1, [Difference(kind, process, 0, str(left), str(right))])


def describe_sums(process: int, vma: VmaRow, ours: Sums, theirs: Sums) -> Difference:
    """The sums that differ, both sides', in bytes."""
    names = [name for name, a, b in zip(Sums._fields, ours, theirs, strict=True) if a != b]
    left, right = (
        " ".join(f"{name}={getattr(sums, name)}" for name in names) for sums in (ours, theirs)
    )
    return Difference(
        DifferenceKind.SUMS, process, vma.start, f"{left} in {describe_vma(vma)}", right
    )


def _first_with_same(values: npt.NDArray[np.uint64]) -> Rows:
    """For each position, the first position that holds the same value."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]
