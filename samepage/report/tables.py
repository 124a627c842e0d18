"""Text on a terminal, and tables that fit it: columns of less worth give way when it is narrow.

A table that is folded makes numbers unreadable. So each column has a rank, and columns are left
out, highest rank first, until the rest fits with `FLEXIBLE` characters for the one column
that may be cut. A table library would do the rest, but takes as long to import as the whole
system takes to read, and the same report is printed by scripts again and again.
"""

import enum
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple, TextIO

FLEXIBLE = 28
"""What is left at least for the column that may be cut."""

GAP = 2
"""Characters between columns."""

FILE_WIDTH = 100
"""Characters of a line in a file."""

_USUAL_WIDTH = 80
_LEAST_FOLD = 8
"""A line is folded if so many characters are left beside its indentation."""
_DOTS = "..."
_STYLES = {"bold": "\x1b[1m", "heading": "\x1b[1;4m", "note": "\x1b[33m"}
_PLAIN = "\x1b[0m"


class Cut(enum.Enum):
    """What is done with a cell that is too long for the flexible column."""

    END = "end"
    COMMAND = "command"
    """The directory of the program is the least useful part of a command line, then its end."""
    PATH = "path"
    """A path ends with what it is: its start goes, or the middle of a file name that is too
    long alone. Further lines are folded."""
    FOLD = "fold"


class Column(NamedTuple):
    """One column of numbers, or the one flexible column of names (`cut` is then set).

    `rank` 0 is never left out; columns of higher rank go first.
    """

    title: str
    rank: int = 0
    cut: Cut | None = None


class Terminal:
    """A stream with a width, and with bold and colour if it is a terminal."""

    def __init__(
        self, stream: TextIO | None = None, width: int | None = None, *, styled: bool | None = None
    ) -> None:
        """Write to a stream (None: stdout).

        Without a width it is the terminal's, or that of COLUMNS, or 80. A stream whose
        encoding lacks a character gets an escape for it, not an error.
        """
        self.stream = stream or sys.stdout
        reconfigure = getattr(self.stream, "reconfigure", None)
        if reconfigure is not None and (self.stream.encoding or "").lower() not in (
            "utf-8",
            "utf8",
        ):
            reconfigure(errors="backslashreplace")
        self.width = width or _width_of(self.stream)
        self._styled = self.stream.isatty() if styled is None else styled

    def print(self, words: str = "", style: str = "") -> None:
        """Print words, folded to the width."""
        for line in words.split("\n"):
            for part in folded(line, self.width):
                for piece in _broken(part, self.width):
                    self._write(piece, style)

    def print_table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str = ""
    ) -> None:
        """Print a table after an empty line, in bold what heads it."""
        self._write("")
        if title:
            self.print(title, "bold")
        for line, is_head in fitted(columns, rows, self.width):
            self._write(line, "bold" if is_head else "")

    def _write(self, line: str, style: str = "") -> None:
        if self._styled and style and line:
            line = f"{_STYLES[style]}{line}{_PLAIN}"
        self.stream.write(line + "\n")


def _width_of(stream: TextIO) -> int:
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except (OSError, ValueError):
        return _USUAL_WIDTH


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> list[tuple[str, bool]]:
    """Return the lines of a table of those columns that fit into `width` characters.

    With each line comes whether it is of the head. A column that is empty in all rows is
    left out. A cell may have several lines.
    """
    kept = [n for n in range(len(columns)) if not rows or any(row[n] for row in rows)]
    widths = [_natural(column, number, rows) for number, column in enumerate(columns)]
    least = [min(FLEXIBLE, widths[n]) if each.cut else widths[n] for n, each in enumerate(columns)]
    while sum(least[n] for n in kept) + GAP * (len(kept) - 1) > width:
        worst = max(kept, key=lambda n: (columns[n].rank, n))
        if columns[worst].rank == 0:
            break
        kept.remove(worst)
    fixed = sum(widths[n] + GAP for n in kept if not columns[n].cut)
    room = max(1, width - fixed)
    sizes = [min(widths[n], room) if columns[n].cut else widths[n] for n in kept]
    lines = []
    for number, row in enumerate([[column.title for column in columns], *rows]):
        cells = [_cell(columns[n].cut, row[n], size) for n, size in zip(kept, sizes, strict=True)]
        for line in _rows_of(cells, [columns[n].cut is None for n in kept], sizes):
            lines += [(part, number == 0) for part in _broken(line, width)]
    return lines


def _rows_of(cells: list[list[str]], right: list[bool], sizes: list[int]) -> list[str]:
    """Return the lines of one row; a cell with fewer lines than another is empty below."""
    height = max(map(len, cells), default=0)
    lines = []
    for number in range(height):
        parts = []
        for cell, is_number, size in zip(cells, right, sizes, strict=True):
            text = cell[number] if number < len(cell) else ""
            padding = " " * (size - cell_len(text))
            parts.append(padding + text if is_number else text + padding)
        lines.append((" " * GAP).join(parts).rstrip())
    return lines


def _broken(line: str, width: int) -> list[str]:
    """Return a line in pieces that fit a terminal too narrow for any table."""
    if cell_len(line) <= width:
        return [line]
    parts = [""]
    for character in line:
        if cell_len(parts[-1] + character) > width:
            parts.append("")
        parts[-1] += character
    return parts


def cell_len(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a wide character."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    import unicodedata

    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _start(words: str, width: int) -> str:
    """Return the longest start of `words` that fits, filled up with a space if need be."""
    if words.isascii():
        return words[:width].ljust(width)
    used = length = 0
    while length < len(words) and used + _columns_of(words[length]) <= width:
        used += _columns_of(words[length])
        length += 1
    return words[:length] + " " * (width - used)


def shortened(words: str, width: int, cut: Cut) -> str:
    """Cut words to `width` characters, with three dots where something is missing."""
    if cell_len(words) <= width:
        return words
    keep = width - len(_DOTS)
    if keep <= 0:
        return words  # it will be folded
    if cut is Cut.PATH:
        name = words[words.rfind("/") + 1 :]
        if cell_len(name) <= keep:
            return _DOTS + _end(words, keep)
        half = (keep + 1) // 2
        return _start(name, half) + _DOTS + _end(name, keep - half)
    if cut is Cut.COMMAND:
        program, space, arguments = words.partition(" ")
        if "/" in program:
            return shortened(program[program.rfind("/") + 1 :] + space + arguments, width, Cut.END)
    return _start(words, keep) + _DOTS


def _end(words: str, width: int) -> str:
    """Return the longest end of `words` that fits."""
    if words.isascii():
        return words[max(0, len(words) - width) :]
    first, used = len(words), 0
    while first and used + _columns_of(words[first - 1]) <= width:
        used += _columns_of(words[first - 1])
        first -= 1
    return words[first:]


def _cell(cut: Cut | None, text: str, width: int) -> list[str]:
    lines = text.split("\n")
    if cut is None:
        return lines
    first, *rest = lines
    if cut is not Cut.FOLD:
        first = shortened(first, width, cut)
    return [
        *folded(first, width),
        *(line for each in rest for line in folded(each, width)),
    ]


def folded(line: str, width: int) -> list[str]:
    """Return an indented line as lines of at most `width`, the further ones indented more."""
    words = line.lstrip(" ")
    indent = " " * (len(line) - len(words))
    if cell_len(line) <= width or width <= len(indent) + _LEAST_FOLD:
        return [line]
    return textwrap.wrap(
        words,
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_on_hyphens=False,
    )


def _natural(column: Column, number: int, rows: Sequence[Sequence[str]]) -> int:
    cells = (row[number] for row in rows)
    return max(cell_len(line) for text in (column.title, *cells) for line in text.split("\n"))
