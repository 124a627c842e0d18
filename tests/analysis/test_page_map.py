"""The page map of a file, by hand (see tests/analysis/sample.py)."""

from samepage.analysis.page_map import CopiedRun, FilePage, page_maps
from samepage.analysis.sharing import Sharing
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags
from tests.analysis.sample import sample


def test_page_map_shows_each_page_of_a_file() -> None:
    maps = page_maps(Sharing(sample()), [0, 1, 2])
    assert maps[0].pages() == [
        FilePage(0, cached=True, mapped=1, copied=0),
        FilePage(1, cached=True, mapped=2, copied=0),
        FilePage(2, cached=True, mapped=2, copied=0),
        FilePage(3, cached=True, mapped=1, copied=0),
        FilePage(4, cached=True, mapped=0, copied=2),
        FilePage(5, cached=True, mapped=1, copied=1),
    ]
    assert maps[2].pages() == [FilePage(0, cached=True, mapped=1, copied=0)]


def test_copies_are_listed_in_runs_and_by_process() -> None:
    builder = SnapshotBuilder("model")
    file = builder.add_file(1, 1, "/lib/x")
    for pid in (1, 2):
        builder.add_process(Process(pid))
        for start in (0x10, 0x20):  # two copies of a page in one process are one process
            builder.add_vma(pid, start << 12, (start + 8) << 12, "rw-p", 0, file, "/lib/x")
        pages = [0x13, 0x14, 0x17, 0x23] if pid == 1 else [0x14, 0x15]
        frames = [pid * 10 + number for number in range(len(pages))]
        builder.add_pages(pid, pages, frames, [PageFlags.PRESENT] * len(pages))
        ones = [1] * len(pages)
        kinds = [FrameKind.ANON] * len(pages)
        builder.add_frames(
            frames, kinds, [-1] * len(pages), [0] * len(pages), ones, [0] * len(pages)
        )
    (found,) = page_maps(Sharing(builder.build()), [file]).values()
    assert found.copied_runs() == [
        *(CopiedRun(3, 1, 1), CopiedRun(4, 1, 2), CopiedRun(5, 1, 1), CopiedRun(7, 1, 1)),
    ]


def test_a_coarser_map_has_the_most_of_each_block() -> None:
    (libc,) = page_maps(Sharing(sample()), [0]).values()
    assert libc.coarser(2).pages() == [
        FilePage(0, cached=True, mapped=2, copied=0),
        FilePage(1, cached=True, mapped=1, copied=2),
    ]
    assert libc.coarser(0).pages() == libc.pages()


def test_a_file_without_mappings_is_an_empty_map() -> None:
    (empty,) = page_maps(Sharing(Snapshot.empty()), [0]).values()
    assert empty.pages() == empty.coarser(3).pages() == empty.copied_runs() == []
