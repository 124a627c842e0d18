"""The page map of a file, by hand (see tests/analysis/sample.py)."""

from samepage.analysis.page_map import FilePage, page_maps
from samepage.analysis.sharing import Sharing
from samepage.snapshot.tables import Snapshot
from tests.analysis.sample import sample


def test_each_page_of_a_file_is_told() -> None:
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


def test_a_coarser_map_has_the_most_of_each_block() -> None:
    (libc,) = page_maps(Sharing(sample()), [0]).values()
    assert libc.coarser(2).pages() == [
        FilePage(0, cached=True, mapped=2, copied=0),
        FilePage(1, cached=True, mapped=1, copied=2),
    ]
    assert libc.coarser(0).pages() == libc.pages()


def test_a_file_that_nobody_has_is_an_empty_map() -> None:
    (empty,) = page_maps(Sharing(Snapshot.empty()), [0]).values()
    assert empty.pages() == empty.coarser(3).pages() == []
