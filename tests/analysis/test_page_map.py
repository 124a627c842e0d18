"""The page map of a file, by hand (see tests/analysis/sample.py)."""

from samepage.analysis.page_map import FilePage, page_maps
from samepage.analysis.sharing import Sharing
from tests.analysis.sample import sample


def test_each_page_of_a_file_is_told() -> None:
    maps = page_maps(Sharing(sample()))
    assert maps[0] == [
        FilePage(0, cached=True, mapped=1, copied=0),
        FilePage(1, cached=True, mapped=2, copied=0),
        FilePage(2, cached=True, mapped=2, copied=0),
        FilePage(3, cached=True, mapped=1, copied=0),
        FilePage(4, cached=True, mapped=0, copied=2),
        FilePage(5, cached=True, mapped=1, copied=1),
    ]
    assert maps[2] == [FilePage(0, cached=True, mapped=1, copied=0)]
