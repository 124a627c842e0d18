"""Large folios: file pages that were allocated together, and are mapped together.

ext4 and others read a file in folios of up to 2 MiB. What they decide here is how much a
fault maps: since Linux 6.18 (commit 357b92761d94, "mm/filemap: map entire large folio
faultaround") `filemap_map_folio_range` maps all of a folio of which fault-around meets a
page, if the folio lies wholly inside the VMA, inside the range of one page table, and
before the last page of the file.

How a file is cut into folios is the history of its reads. The model's own readahead makes
folios of one page; a comparison with a live kernel gives the model that kernel's folios.
"""

from bisect import bisect_right
from collections.abc import Sequence


class FolioMap:
    """The large folios of one file, as (first page, number of pages), ascending.

    Invariant: they do not overlap; a page in none of them is a folio by itself.
    """

    def __init__(self, folios: Sequence[tuple[int, int]]) -> None:
        self._first = [first for first, _ in folios]
        self._end = [first + count for first, count in folios]

    def bounds(self, index: int) -> tuple[int, int]:
        """The first page of the folio that holds page `index`, and that after its last."""
        at = bisect_right(self._first, index) - 1
        if at >= 0 and index < self._end[at]:
            return self._first[at], self._end[at]
        return index, index + 1
