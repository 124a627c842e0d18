"""Tables that fit the terminal: columns of less worth give way when it is narrow.

Rich would fold every cell of a table that is too wide, which makes numbers unreadable. So
each column has a rank, and columns are left out, highest rank first, until the rest fits
with `FLEXIBLE` characters for the one column that may be cut.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

FLEXIBLE = 16
"""What is left at least for the column that may be cut."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `rank` 0 is never left out, and the flexible one (a name) is folded."""

    title: str
    rank: int = 0
    flexible: bool = False
    justify: Literal["left", "right"] = "right"


def fitted(
    title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> Table:
    """Return a table of those columns that fit into `width` characters."""
    widths = [_natural(column, number, rows) for number, column in enumerate(columns)]
    kept = list(range(len(columns)))
    while sum(widths[n] for n in kept) + 2 * (len(kept) - 1) > width:
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
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    for n in kept:
        column = columns[n]
        table.add_column(
            column.title,
            justify="left" if column.flexible else column.justify,
            overflow="fold",
            no_wrap=not column.flexible,
            min_width=None if column.flexible else widths[n],
        )
    for row in rows:
        table.add_row(*(Text(row[n]) for n in kept))
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


def shortened(path: str, width: int) -> str:
    """Cut a path at its front, where it says least, to `width` characters."""
    if cell_len(path) <= width:
        return path
    return "..." + path[-(width - 3) :]


def _natural(column: Column, number: int, rows: Sequence[Sequence[str]]) -> int:
    if column.flexible:
        return FLEXIBLE
    lines = [*column.title.split("\n"), *(row[number] for row in rows)]
    return max(cell_len(line) for line in lines)
