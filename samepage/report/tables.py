"""Tables that fit the terminal: columns of less worth give way when it is narrow.

Rich would fold every cell of a table that is too wide, which makes numbers unreadable. So
each column has a rank, and columns are left out, highest rank first, until the rest fits
with `FLEXIBLE` characters for the one column that may be cut.
"""

import enum
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

FLEXIBLE = 16
"""What is left at least for the column that may be cut."""

GAP = 2
"""Characters between columns."""

_DOTS = "..."


class Cut(enum.Enum):
    """What is done with a cell that is too long for the flexible column."""

    END = "end"
    COMMAND = "command"
    """The directory of the program says least of a command line, then its end: they go."""
    PATH = "path"
    """A path ends with what it is: its start goes, or the middle of a file name that is too
    long alone. Further lines are folded."""
    FOLD = "fold"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of numbers, or the one flexible column of names (`cut` is then set).

    `rank` 0 is never left out; columns of higher rank go first.
    """

    title: str
    rank: int = 0
    cut: Cut | None = None


def fitted(
    title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> Table:
    """Return a table of those columns that fit into `width` characters.

    A column that is empty in all rows is left out.
    """
    kept = [n for n in range(len(columns)) if not rows or any(row[n] for row in rows)]
    widths = [_natural(column, number, rows) for number, column in enumerate(columns)]
    least = [FLEXIBLE if column.cut else widths[n] for n, column in enumerate(columns)]
    while sum(least[n] for n in kept) + GAP * (len(kept) - 1) > width:
        worst = max(kept, key=lambda n: (columns[n].rank, n))
        if columns[worst].rank == 0:
            break
        kept.remove(worst)
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
    )
    fixed = sum(widths[n] + GAP for n in kept if not columns[n].cut)
    room = max(1, width - fixed)
    for n in kept:
        name = columns[n].cut is not None
        table.add_column(
            columns[n].title,
            justify="left" if name else "right",
            overflow="fold",
            no_wrap=not name,
            min_width=None if name else widths[n],
        )
    for row in rows:
        table.add_row(*(Text(_cell(columns[n].cut, row[n], room)) for n in kept))
    return table


class PipeConsole(Console):
    """A console that leaves a closed pipe to the command line, as any other writer does."""

    def on_broken_pipe(self) -> None:
        """Raise the `BrokenPipeError` that is being handled; Rich would exit with status 1."""
        raise


def console_for(stream: TextIO | None, width: int | None = None) -> Console:
    """Return a console on a stream (None: stdout) that prints names as they are.

    A stream whose encoding lacks a character gets an escape for it, not an error.
    """
    stream = stream or sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and (stream.encoding or "").lower() not in ("utf-8", "utf8"):
        reconfigure(errors="backslashreplace")
    return PipeConsole(file=stream, width=width, highlight=False, markup=False, emoji=False)


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
        return set_cell_size(name, half) + _DOTS + _end(name, keep - half)
    if cut is Cut.COMMAND:
        program, space, arguments = words.partition(" ")
        if "/" in program:
            return shortened(program[program.rfind("/") + 1 :] + space + arguments, width, Cut.END)
    return set_cell_size(words, keep) + _DOTS


def _end(words: str, width: int) -> str:
    """Return the longest end of `words` that fits."""
    while cell_len(words) > width:
        words = words[max(1, (cell_len(words) - width) // 2) :]
    return words


def _cell(cut: Cut | None, text: str, width: int) -> str:
    if cut is None:
        return text
    first, *rest = text.split("\n")
    if cut is not Cut.FOLD:
        first = shortened(first, width, cut)
    return "\n".join([first, *(line for each in rest for line in folded(each, width))])


def folded(line: str, width: int) -> list[str]:
    """Return an indented line as lines of at most `width`, the further ones indented more."""
    words = line.lstrip(" ")
    indent = " " * (len(line) - len(words))
    if cell_len(line) <= width or width <= len(indent) + FLEXIBLE // 2:
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
