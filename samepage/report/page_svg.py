"""A file's pages as a picture: one cell per page, in rows of `COLUMNS`, as inline SVG.

A cell's colour shows who has the page: mapped by one process, by several (darker with more),
copied, in the page cache only, or absent. Equal neighbours of a row are one rectangle, so
that a library of ten thousand pages stays a small picture; in files of more than
`MOST_CELLS` pages a cell represents several pages, and shows the most that one of them has.
It is drawn without script; the text of each rectangle appears when the pointer rests on it.
"""

from collections.abc import Iterator

from samepage.analysis.page_map import FilePage, PageMap

COLUMNS = 64
CELL = 10
"""Pixels from cell to cell."""

FEW_CELLS = 2048
"""A file with no more cells than this is drawn with all its rows."""

MOST_CELLS = 16384

ABSENT = FilePage(-1, False, 0, 0)
LEVELS = (1, 2, 4, 8, 16, 64, 256)
"""A page mapped at least so often gets the next darker colour."""


def picture(page_map: PageMap, total: int) -> str:
    """Return the SVG element for a file of `total` pages."""
    total = max(total, 1 + int(page_map.index[-1])) if len(page_map.index) else total
    shift = 0
    while total >> shift > MOST_CELLS:
        shift += 1
    known = {page.page: page for page in page_map.coarser(shift).pages()}
    cells = -(-total >> shift)
    # In a large file most is absent: rows without any page are left out.
    rows = (
        sorted({index // COLUMNS for index in known})
        if cells > FEW_CELLS
        else range(-(-cells // COLUMNS))
    )
    parts = []
    for line, row in enumerate(rows):
        first = row * COLUMNS
        line_of = [known.get(n, ABSENT) for n in range(first, min(first + COLUMNS, cells))]
        for low, high in _runs(line_of):
            bounds = (first + low) << shift, min((first + high) << shift, total)
            parts.append(_rectangle(line_of[low], bounds, (low, high), line))
    width, height = COLUMNS * CELL, len(rows) * CELL
    return (
        f'<svg class="pages" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img">{"".join(parts)}</svg>'
    )


def css_class(page: FilePage) -> str:
    """Return the class that colours a page: absent, cached, copied, or m1, m2 ... by level."""
    if page.mapped:
        level = sum(page.mapped >= least for least in LEVELS)
        return f"m{level} copied" if page.copied else f"m{level}"
    if page.copied:
        return "copied"
    return "cached" if page.cached else "absent"


def _runs(cells: list[FilePage]) -> Iterator[tuple[int, int]]:
    low = 0
    for high in range(1, len(cells) + 1):
        if high == len(cells) or _state(cells[high]) != _state(cells[low]):
            yield low, high
            low = high


def _state(page: FilePage) -> tuple[bool, int, int]:
    return page.cached, page.mapped, page.copied


def _rectangle(page: FilePage, bounds: tuple[int, int], cells: tuple[int, int], line: int) -> str:
    first, end = bounds
    pages = f"page {first}" if end == first + 1 else f"pages {first} to {end - 1}"
    return (
        f'<rect class="{css_class(page)}" x="{cells[0] * CELL}" y="{line * CELL}" '
        f'width="{(cells[1] - cells[0]) * CELL - 1}" height="{CELL - 1}">'
        f"<title>{pages}: {_words(page)}</title></rect>"
    )


def _words(page: FilePage) -> str:
    words = []
    if page.mapped:
        words.append(f"mapped {page.mapped} times" if page.mapped > 1 else "mapped once")
    elif page.cached:
        words.append("in the page cache, not mapped")
    if page.copied:
        words.append(f"copied by {page.copied}")
    return ", ".join(words) or "not in memory"
