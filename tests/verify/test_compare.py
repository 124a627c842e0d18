"""Two snapshots agree exactly if they are one another's renaming of frames."""

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from samepage.snapshot.kinds import FrameKind
from samepage.verify.compare import Comparison, compare
from samepage.verify.difference import DifferenceKind
from tests.verify.memories import DIRTY, PRESENT, Frame, Memory, memories

PIDS = {10: 7001, 20: 7002}


def compare_both(model: Memory, kernel: Memory) -> Comparison:
    return compare(model.build(), kernel.build("live"), list(PIDS.items()))


def kernel_of(memory: Memory) -> Memory:
    return memory.renamed(5000, PIDS)


@given(memories())
@settings(max_examples=40, deadline=None)
def test_the_same_memory_with_other_frame_numbers_and_pids_agrees(memory: Memory) -> None:
    result = compare_both(memory, kernel_of(memory))
    assert result.same
    assert result.pages == result.total_pages == len(memory.pages)


def drop_page(draw: st.DataObject, memory: Memory) -> None:
    del memory.pages[draw.draw(st.sampled_from(sorted(memory.pages)))]


def flip_dirty(draw: st.DataObject, memory: Memory) -> None:
    key = draw.draw(st.sampled_from(sorted(memory.pages)))
    frame, flags = memory.pages[key]
    memory.pages[key] = (frame, flags ^ DIRTY)


def give_own_frame(draw: st.DataObject, memory: Memory) -> None:
    """A page that shared its frame with another page gets a frame of its own."""
    used = [frame for frame, _ in memory.pages.values()]
    shared = sorted(key for key, (frame, _) in memory.pages.items() if used.count(frame) > 1)
    assume(shared)
    key = draw.draw(st.sampled_from(shared))
    frame, flags = memory.pages[key]
    old = memory.frames[frame]
    memory.frames[999] = Frame(999, old.kind, old.file, old.index)
    memory.pages[key] = (999, flags)


def merge_frames(draw: st.DataObject, memory: Memory) -> None:
    """Two pages with frames of their own share one."""
    anonymous = sorted(
        key
        for key, (frame, _) in memory.pages.items()
        if memory.frames[frame].kind == FrameKind.ANON
    )
    assume(len({memory.pages[key][0] for key in anonymous}) > 1)
    one, other = anonymous[0], anonymous[-1]
    assume(memory.pages[one][0] != memory.pages[other][0])
    memory.pages[one] = memory.pages[other]


def move_index(draw: st.DataObject, memory: Memory) -> None:
    mapped = {frame for frame, _ in memory.pages.values()}
    files = sorted(n for n in mapped if memory.frames[n].kind == FrameKind.FILE)
    assume(files)
    memory.frames[draw.draw(st.sampled_from(files))].index += 77


def change_perms(draw: st.DataObject, memory: Memory) -> None:
    pid = draw.draw(st.sampled_from([10, 20]))
    start, end, _, offset, name = memory.vmas[pid][0]
    memory.vmas[pid][0] = (start, end, "r--p", offset, name)


def grow_vma(draw: st.DataObject, memory: Memory) -> None:
    pid = draw.draw(st.sampled_from([10, 20]))
    start, end, perms, offset, name = memory.vmas[pid][2]
    memory.vmas[pid][2] = (start, end + 1, perms, offset, name)


def count_fault(draw: st.DataObject, memory: Memory) -> None:
    minor, major = memory.faults[10]
    memory.faults[10] = draw.draw(st.sampled_from([(minor + 1, major), (minor, major + 1)]))


Mutation = Callable[[st.DataObject, Memory], None]


@pytest.mark.parametrize(
    ("mutate", "kinds"),
    [
        (drop_page, {DifferenceKind.PRESENT}),
        (flip_dirty, {DifferenceKind.DIRTY}),
        (give_own_frame, {DifferenceKind.FRAME}),
        (merge_frames, {DifferenceKind.FRAME}),
        (move_index, {DifferenceKind.LABEL}),
        (change_perms, {DifferenceKind.VMA}),
        (grow_vma, {DifferenceKind.VMA}),
        (count_fault, {DifferenceKind.MINOR_FAULTS, DifferenceKind.MAJOR_FAULTS}),
    ],
)
@given(memory=memories(), data=st.data())
@settings(max_examples=20, deadline=None)
def test_any_single_change_is_found(
    mutate: Mutation, kinds: set[DifferenceKind], memory: Memory, data: st.DataObject
) -> None:
    assume(memory.pages)
    changed = memory.copy()
    mutate(data, changed)
    kernel = kernel_of(memory)
    for result in (compare_both(changed, kernel), compare_both(memory, kernel_of(changed))):
        assert not result.same
        assert kinds & {kind for kind, count in result.counts.items() if count}
        assert len(result.differences) > 0


def two_pages() -> Memory:
    memory = Memory(
        {10: [(100, 102, "r-xp", 0, "/a"), (900, 901, "r--p", 0, "[vvar]")], 20: []},
        {(10, 100): (1, PRESENT), (10, 101): (2, PRESENT), (10, 900): (3, PRESENT)},
        {
            1: Frame(1, FrameKind.FILE, "/a", 0),
            2: Frame(2, FrameKind.FILE, "/a", 1),
            3: Frame(3, FrameKind.SPECIAL),
        },
    )
    memory.vmas[20] = [(100, 102, "r-xp", 0, "/a")]
    memory.pages[20, 100] = (1, PRESENT)
    return memory


def test_what_is_excluded_is_named_and_changes_nothing() -> None:
    memory = two_pages()
    kernel = kernel_of(memory)
    del memory.pages[10, 900]
    result = compare_both(memory, kernel)
    assert result.same
    assert list(result.excluded) == ["[vvar]"]


def test_a_difference_describes_both_sides() -> None:
    memory = two_pages()
    kernel = kernel_of(memory)
    del memory.pages[10, 101]
    (first, *_) = compare_both(memory, kernel).differences
    assert (first.kind, first.process, first.address) == (DifferenceKind.PRESENT, 0, 101 << 12)
    assert first.model == "not present; in 64000-66000 r-xp 00000000 /a"
    assert first.kernel.startswith("page 1 of /a (frame ")
    assert first.kernel.endswith("), clean; in 64000-66000 r-xp 00000000 /a")


def test_all_differences_are_counted_and_the_first_described() -> None:
    memory = two_pages()
    kernel = kernel_of(memory)
    memory.pages.clear()
    result = compare(memory.build(), kernel.build("live"), list(PIDS.items()), shown=1)
    assert result.counts[DifferenceKind.PRESENT] == 3
    assert sum(d.kind is DifferenceKind.PRESENT for d in result.differences) == 1


def test_removed_files_are_distinguished_by_address() -> None:
    """Their names are of no help: one for several, or random."""

    def memory(first: str, second: str, *, crossed: bool = False) -> Snapshot:
        builder = SnapshotBuilder("model")
        builder.add_process(Process(10, minor_faults=0, major_faults=0))
        base = 50 if first == second else 0
        files = [
            builder.add_file(1, base + number, name, deleted=True)
            for number, name in enumerate((first, second))
        ]
        for place, file in enumerate(files):
            builder.add_vma(10, place << 20, (place << 20) + 4096, "rw-s", 0, file, first)
        builder.add_pages(10, [0, 1 << 8], [1, 2], [PRESENT, PRESENT])
        shown = files[::-1] if crossed else files
        builder.add_frames([1, 2], [FrameKind.SHMEM] * 2, shown, [0, 0], [1, 1], [0, 0])
        return builder.build()

    same = memory("/SYSV", "/SYSV")
    assert compare(memory("/a.X", "/a.Y"), same, [(10, 10)]).same
    assert compare(memory("/SYSV", "/SYSV"), memory("/a.P", "/a.Q"), [(10, 10)]).same
    assert not compare(memory("/a.X", "/a.Y", crossed=True), same, [(10, 10)]).same
