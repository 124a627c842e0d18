"""Sharing, counted by hand (see tests/analysis/sample.py) and held by identities."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.analysis import counting
from samepage.analysis.counting import Count, Scope
from samepage.analysis.sharing import Mapper, Sharing, Usage
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags
from tests.analysis.sample import sample


@pytest.fixture(scope="module")
def sharing() -> Sharing:
    return Sharing(sample())


def test_scope_is_the_group_in_the_model_and_the_system_on_a_live_kernel() -> None:
    assert Sharing(sample("model")).scope is Scope.GROUP
    assert Sharing(sample("live")).scope is Scope.SYSTEM


def test_a_process_is_counted_page_by_page(sharing: Sharing) -> None:
    a, b, c = sharing.processes
    # 10 11 12 15 of libc, 20 copied, 21 heap, 90 vdso; not the zero page, not vvar
    assert a.usage.rss == 7
    assert (a.usage.shared_clean, a.usage.shared_dirty) == (3, 1)  # 11 12 90; 21
    assert (a.usage.private_clean, a.usage.private_dirty) == (2, 1)  # 10 15; 20
    assert a.usage.anonymous == 2  # 20 21
    assert a.usage.zero == 1
    assert a.usage.uss == 3
    assert a.pss == 5  # 3 alone and 4 halves
    assert a.virtual_pages == 4 + 2 + 3 + 1 + 2
    # 11 12 13 of libc, 22 23 copied, 21 heap, 90 vdso
    assert (b.usage.rss, b.pss, b.usage.uss, b.usage.swap) == (7, 5, 3, 1)
    assert (b.usage.private_clean, b.usage.private_dirty) == (1, 2)  # 13; 22 23
    assert (c.usage.rss, c.pss, c.usage.uss) == (3, 3, 3)
    assert (c.usage.private_clean, c.usage.private_dirty, c.usage.anonymous) == (2, 1, 0)
    assert [use.process.exit_code for use in sharing.processes] == [0, 3, None]
    assert [(use.process.minor_faults, use.process.major_faults) for use in sharing.processes] == [
        (12, 1),
        (9, 0),
        (4, 2),
    ]


def test_the_whole_system_counts_in_its_scope() -> None:
    a, b, c = Sharing(sample(), Scope.SYSTEM).processes
    # frame 11 is mapped 10 times
    assert a.pss == 3 + 3 * Fraction(1, 2) + Fraction(1, 10)
    assert b.pss == 3 + 3 * Fraction(1, 2) + Fraction(1, 10)
    # frame 40 is mapped 4 times, so it is shared
    assert c.pss == 2 + Fraction(1, 4)
    assert (c.usage.shared_dirty, c.usage.private_dirty) == (1, 0)


def test_a_vma_has_the_numbers_of_smaps(sharing: Sharing) -> None:
    text, data, heap, vvar, vdso = sharing.vmas(0)
    half = (4096 << 12) // 2
    assert text.usage == Usage(2, 0, 1, 0, 3, 0, 0, 0, 0, 0, 2 * half + (4096 << 12))
    assert text.pss == 2
    assert text.usage.pss_kib == 8
    assert (data.usage.rss, data.usage.anonymous, data.usage.pss_kib) == (2, 1, 8)
    assert (heap.usage.rss, heap.usage.zero, heap.usage.pss_kib) == (1, 1, 2)
    assert vvar.usage.rss == 0
    assert (vdso.usage.rss, vdso.usage.pss_kib) == (1, 2)
    assert [(vma.end - vma.start) >> 12 for vma in sharing.vmas(0)] == [4, 2, 3, 1, 2]


def test_pss_of_a_vma_is_rounded_as_the_kernel_does_it() -> None:
    builder = SnapshotBuilder("model")
    for pid in (1, 2, 3):
        builder.add_process(Process(pid))
        builder.add_vma(pid, 4096, 8192, "r--p", 0, -1, "")
        builder.add_pages(pid, [1], [5], [1])
    builder.add_frames([5], [FrameKind.ANON], [-1], [0], [3], [0])
    sharing = Sharing(builder.build())
    # 4096 * 4096 / 3 = 5592405.33: each third loses a bit, and KiB are cut off
    assert sharing.vmas(0)[0].usage.kernel_pss == 5592405
    assert sharing.vmas(0)[0].usage.pss_kib == 1
    assert sharing.processes[0].pss == Fraction(1, 3)


def test_a_file_knows_who_maps_and_who_copied_it(sharing: Sharing) -> None:
    libc, copy, shm = sharing.files
    assert libc.mapped_pages == 4 + 3
    assert libc.frames == 5  # 10 11 12 13 15
    assert libc.cached_frames == 6  # and 14
    assert (libc.copied_pages, libc.copied_frames) == (3, 3)
    assert sharing.degrees[0] == {1: 3, 2: 2}
    assert libc.saved_pages == 2
    assert sharing.mappers[0] == [Mapper(1, 6, 4, 1), Mapper(2, 6, 3, 2)]
    assert (libc.processes, copy.processes) == (2, 1)
    assert (copy.frames, sharing.mappers[1]) == (2, [Mapper(3, 4, 2, 0)])
    assert (shm.frames, shm.copied_pages, sharing.degrees[2]) == (1, 0, {1: 1})


def test_totals_of_what_sharing_saves(sharing: Sharing) -> None:
    totals = sharing.totals
    assert totals.processes == 3
    assert totals.virtual_pages == 12 + 11 + 5
    assert totals.resident_pages == 7 + 7 + 3
    assert totals.frames == 13
    assert totals.saved_pages == 4  # 11 12 21 90
    assert totals.file_frames == 7
    assert totals.anonymous_frames == 4
    assert totals.shmem_frames == 1
    assert totals.other_frames == 1
    assert (totals.swapped_pages, totals.copied_pages, totals.unknown_pages) == (1, 3, 0)


def test_without_frame_numbers_only_known_sums_are_reported() -> None:
    builder = SnapshotBuilder("live")
    builder.add_process(Process(1))
    builder.add_vma(1, 4096, 5 * 4096, "r--p", 0, -1, "")
    once = PageFlags.PRESENT | PageFlags.EXCLUSIVE
    builder.add_pages(1, [1, 2, 3], [0, 0, 0], [once, PageFlags.PRESENT, 5])
    (process,), totals = Sharing(builder.build()).processes, Sharing(builder.build()).totals
    assert (process.usage.rss, process.usage.uss, process.usage.unknown) == (3, 1, 2)
    assert process.usage.anonymous == 2
    assert process.pss == 1
    assert (totals.frames, totals.unknown_pages, totals.saved_pages) == (0, 3, 0)


def test_the_empty_snapshot_costs_nothing() -> None:
    sharing = Sharing(Snapshot.empty())
    assert sharing.processes == []
    assert sharing.files == []
    assert sharing.totals.frames == sharing.totals.saved_pages == 0


KINDS = [FrameKind.ANON, FrameKind.FILE, FrameKind.SHMEM, FrameKind.ZERO, FrameKind.KSM]


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A few processes with a few VMAs over a few frames, mapped at random."""
    builder = SnapshotBuilder("model")
    files = [builder.add_file(1, ino, f"/f{ino}") for ino in range(3)]
    frames = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=frames, max_size=frames))
    for pid in range(1, draw(st.integers(1, 5)) + 1):
        builder.add_process(Process(pid))
        start = 1
        for size in draw(st.lists(st.integers(1, 6), max_size=4)):
            file = draw(st.sampled_from([-1, *files]))
            builder.add_vma(pid, start << 12, start + size << 12, "rw-p", 0, file, "")
            vpages = draw(st.sets(st.integers(start, start + size - 1)))
            for vpage in vpages:
                flags = draw(st.sampled_from([1, 33, 2]))
                frame = draw(st.integers(1, frames)) if flags & 1 else 0
                builder.add_pages(pid, [vpage], [frame], [flags])
            start += size + draw(st.integers(0, 1))
    builder.add_frames(
        range(1, frames + 1),
        kinds,
        [files[0] if kind == FrameKind.FILE else -1 for kind in kinds],
        [0] * frames,
        draw(st.lists(st.integers(0, 30), min_size=frames, max_size=frames)),
        [0] * frames,
    )
    return builder.build()


@given(snapshots(), st.sampled_from(Scope), st.integers(1, 7))
@settings(deadline=None)
def test_the_identities_hold(snapshot: Snapshot, scope: Scope, batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # the result must not depend on where a batch ends
        patch.setattr(counting, "_PAGES_AT_ONCE", batch)
        sharing = Sharing(snapshot, scope)
    pss = sum((process.pss for process in sharing.processes), Fraction(0))
    if scope is Scope.GROUP:
        assert pss == sharing.totals.frames
    else:
        assert pss <= sharing.totals.frames
    assert sum(p.usage.rss for p in sharing.processes) == sharing.totals.resident_pages
    for process in sharing.processes:
        usage = process.usage
        assert usage.uss <= process.pss <= usage.rss
        assert usage.rss == usage.uss + usage.shared_clean + usage.shared_dirty
        vmas = sharing.vmas(process.number)
        assert process.pss == sum(vma.pss for vma in vmas)
        for name in ("rss", "shared_dirty", "private_clean", "anonymous", "swap", "kernel_pss"):
            assert getattr(usage, name) == sum(getattr(v.usage, name) for v in vmas)
        # rounding down loses less than 1/4096 byte a page
        assert 0 <= process.pss * 4096 * 4096 - usage.kernel_pss < max(usage.rss, 1)
    for file in sharing.files:
        assert file.mapped_pages == sum(by.pages for by in sharing.mappers[file.number])
        assert file.processes == len(sharing.mappers[file.number])
        degrees = sharing.degrees[file.number].values()
        assert file.frames == sum(degrees) <= file.cached_frames
    assert (sharing.counted.vmas[:, Count.RSS] >= 0).all()
    assert sharing.totals.saved_pages >= 0


@given(st.integers())
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_changes_nothing(seed: int) -> None:
    one, two = Sharing(sample()), Sharing(sample(seed=seed))
    assert one.processes == two.processes
    assert one.files == two.files
    assert one.totals == two.totals
    assert np.array_equal(one.counted.vmas, two.counted.vmas)
