"""Folios decide how much fault-around maps; the live kernel's own are the oracle in the
verify suite, here are the rule's edges."""

import pytest

from samepage.kernel.mm.fault import _with_whole_folios
from samepage.kernel.mm.folios import FolioMap
from samepage.kernel.mm.mapped_file import MappedFile
from samepage.kernel.mm.vma import Vma, VmFlags

PMD = 2 << 20


def vma(first: int, pages: int, file_pages: int) -> Vma:
    start = 0x7FFF_0000_0000 + (first << 12)
    area = Vma(start, start + (pages << 12), VmFlags.READ, pgoff=first)
    area.file = MappedFile(1, 2, file_pages << 12)
    return area


def window(area: Vma, folios: list[tuple[int, int]], first: int, count: int) -> tuple[int, int]:
    table_start = area.address(first) & -PMD
    assert area.file is not None
    return _with_whole_folios(area, area.file, FolioMap(folios), first, count, table_start)


@pytest.mark.parametrize(
    ("index", "bounds"), [(3, (3, 4)), (4, (4, 8)), (7, (4, 8)), (8, (8, 9)), (64, (64, 128))]
)
def test_a_page_outside_of_large_folios_is_a_folio_itself(
    index: int, bounds: tuple[int, int]
) -> None:
    assert FolioMap([(4, 4), (64, 64)]).bounds(index) == bounds


def test_folios_at_both_edges_of_the_window_are_mapped_whole() -> None:
    assert window(vma(0, 500, 500), [(0, 32), (32, 32)], 16, 32) == (0, 64)


def test_a_folio_that_crosses_the_vma_is_not() -> None:
    assert window(vma(8, 40, 500), [(0, 32), (32, 32)], 16, 32) == (16, 32)


def test_a_folio_that_reaches_the_last_page_of_the_file_is_not() -> None:
    area = vma(0, 64, 64)
    assert window(area, [(32, 32)], 32, 16) == (32, 16)
    area.file.size += 4096
    assert window(area, [(32, 32)], 32, 16) == (32, 32)


def test_a_folio_that_crosses_a_page_table_is_not() -> None:
    area = vma(0, 1024, 2000)
    assert window(area, [(500, 24)], 496, 16) == (496, 16)
