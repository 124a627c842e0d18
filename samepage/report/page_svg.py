"""A file's pages as a picture: one cell per page, in rows of `COLUMNS`, as inline SVG.

A cell's colour says who has the page: mapped by one process, by several (darker with more),
copied, in the page cache only, or by nobody. Equal neighbours of a row are one rectangle, so
that a library of ten thousand pages stays a small picture. It is drawn without script;
the text of each rectangle appears when the pointer rests on it.
"""

from collections.abc import Iterable, Iterator

from samepage.analysis.page_map import FilePage

COLUMNS = 64
CELL = 10
"""Pixels from cell to cell."""

ABSENT = FilePage(-1, False, 0, 0)
LEVELS = (1, 2, 4, 8, 16, 64, 256)
"""A page mapped at least so often gets the next darker colour."""


def picture(pages: Iterable[FilePage], total: int) -> str:
    """Return the SVG element for a file of `total` pages, of which `pages` are in memory."""
    known = {page.index: page for page in pages}
    total = max(total, 1 + max(known, default=0))
    rows = -(-total // COLUMNS)
    # Runs of rows that nobody has are one line high: a large file is mostly absent.
    shown = [row for row in range(rows) if _is_shown(known, row, rows)]
    parts = []
    for line, row in enumerate(shown):
        first = row * COLUMNS
        cells = [known.get(n, ABSENT) for n in range(first, min(first + COLUMNS, total))]
        parts += [
            _rectangle(cells[low], first + low, high - low, low, line) for low, high in _runs(cells)
        ]
    width, height = COLUMNS * CELL, len(shown) * CELL
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


def _is_shown(known: dict[int, FilePage], row: int, rows: int) -> bool:
    """Leave out rows in which no page is in memory, except in files of a few rows."""
    return rows <= 32 or any(n in known for n in range(row * COLUMNS, (row + 1) * COLUMNS))


def _runs(cells: list[FilePage]) -> Iterator[tuple[int, int]]:
    low = 0
    for high in range(1, len(cells) + 1):
        if high == len(cells) or _state(cells[high]) != _state(cells[low]):
            yield low, high
            low = high


def _state(page: FilePage) -> tuple[bool, int, int]:
    return page.cached, page.mapped, page.copied


def _rectangle(page: FilePage, index: int, length: int, column: int, line: int) -> str:
    pages = f"page {index}" if length == 1 else f"pages {index} to {index + length - 1}"
    return (
        f'<rect class="{css_class(page)}" x="{column * CELL}" y="{line * CELL}" '
        f'width="{length * CELL - 1}" height="{CELL - 1}"><title>{pages}: {_words(page)}'
        "</title></rect>"
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
