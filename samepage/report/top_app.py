"""The full-screen view of `samepage top`.

One table, which shows the place the user is at (`samepage.report.top_views`), below a line
with the sums. It takes snapshots from a source, in a thread, again and again; when there is a
new one, the table is filled anew, with the cursor on the same row as before. A snapshot that was
saved, or of a model run, is shown once.

It draws nothing that a terminal of 80 by 24 cannot show, and uses no mouse and no colour
for anything that is not also in the text.
"""

import time
from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static

from samepage.analysis.sharing import Sharing
from samepage.errors import SamepageError
from samepage.report import top_views
from samepage.report.sizes import count, size
from samepage.report.tables import Cut, shortened
from samepage.report.text import incomplete
from samepage.report.top_views import Column, Place, Row, View
from samepage.snapshot.columns import Snapshot


class TopApp(App[None]):
    """Shows what the processes share, and refreshes it."""

    TITLE = "samepage top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #sums { height: 2; }
    #place { height: 1; text-style: bold; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    DataTable { height: 1fr; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "go('processes')", "Procs"),
        Binding("f", "go('files')", "Files"),
        Binding("g", "go('program')", "Progs"),
        Binding("c", "go('container')", "Containers"),
        Binding("u", "go('user')", "Users"),
        Binding("n", "go('unit')", "Units", show=False),
        Binding("o", "go('pod')", "Pods", show=False),
        Binding("t", "go('tree')", "Trees", show=False),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Flip", show=False),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("space", "pause", "Pause"),
        Binding("escape", "back", "Back", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        source: Callable[[], Snapshot],
        *,
        interval: float | None = 2.0,
        first: str = "processes",
    ) -> None:
        """Take snapshots from `source`, every so many seconds; None: only one.

        `first` is the table to begin with (`top_views.PLACES`).
        """
        super().__init__()
        self._source = source
        self._interval = interval
        self._sharing: Sharing | None = None
        self._places: list[Place] = [top_views.PLACES[first]]
        self._sorts: list[tuple[int, bool] | None] = [None]
        self._cursors: list[str | None] = [None]
        self._rows: list[Row] = []
        self._columns: tuple[Column, ...] = ()
        self._paused = False
        self._trouble = ""

    def compose(self) -> ComposeResult:
        """Lay out the screen, from top to bottom."""
        yield Static("reading the system", id="sums")
        yield Static("", id="place")
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield Input(placeholder="filter", id="filter", compact=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Start to read."""
        self.query_one(DataTable).focus()
        self.run_worker(self._read_forever, thread=True)

    def _read_forever(self) -> None:
        """Read and hand over, in a thread of its own, until the application ends."""
        while self.is_running:
            begun = time.monotonic()
            if not self._paused:
                try:
                    sharing = Sharing(self._source())
                    # What every screen needs is computed here, not in the interface's thread.
                    _ = sharing.processes, sharing.files, sharing.totals
                except SamepageError as error:
                    self._trouble = error.message
                else:
                    self.call_from_thread(self.show_sharing, sharing)
            if self._interval is None:
                return
            spent = time.monotonic() - begun
            end = time.monotonic() + max(self._interval - spent, 0.1)
            while self.is_running and time.monotonic() < end:
                time.sleep(0.05)

    def show_sharing(self, sharing: Sharing) -> None:
        """Take a newer snapshot's answers and show them."""
        self._sharing = sharing
        self._show()

    def on_resize(self) -> None:
        """Use the new width."""
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        """Fill the screen from the newest snapshot and the place the user is at."""
        if self._sharing is None:
            return
        self.query_one("#sums", Static).update(Text(self._sums(self._sharing)))
        view = self._places[-1](self._sharing)
        rows = self._sorted(view, self._filtered(view.rows))
        self.query_one("#place", Static).update(Text(self._title(view, len(rows))))
        self._fill(view, rows)

    def _sums(self, sharing: Sharing) -> str:
        totals = sharing.totals
        text = (
            f"{count(totals.processes, 'process', 'processes')}: "
            f"{size(totals.resident_pages)} resident in {size(totals.frames)}, "
            f"sharing saves {size(totals.saved_pages)}"
        )
        if not sharing.snapshot.frames_visible:
            resident = size(totals.resident_pages)
            text = f"{resident} resident; frame numbers need root (CAP_SYS_ADMIN)"
        unread = ", ".join(f"{number} {words}" for number, words in incomplete(sharing.snapshot))
        return f"{text}\n{self._trouble or unread or self._state()}"

    def _state(self) -> str:
        if self._interval is None:
            return "one snapshot"
        return "paused" if self._paused else f"every {self._interval:g} s"

    def _title(self, view: View, shown: int) -> str:
        wanted = self.query_one("#filter", Input).value
        more = f" with {wanted!r}" if wanted else ""
        return f"{view.title} ({shown}{more})"

    def _filtered(self, rows: list[Row]) -> list[Row]:
        wanted = self.query_one("#filter", Input).value.lower()
        if not wanted:
            return rows
        return [row for row in rows if any(wanted in str(value).lower() for value in row.values)]

    def _sorted(self, view: View, rows: list[Row]) -> list[Row]:
        column, reverse = self._sorts[-1] or _first_sort(view)
        if column < 0:
            return rows
        return sorted(rows, key=lambda row: row.values[column], reverse=reverse)

    def _fill(self, view: View, rows: list[Row]) -> None:
        table: DataTable[Text] = self.query_one(DataTable)
        keep = self._cursors[-1]
        column, reverse = self._sorts[-1] or _first_sort(view)
        top = table.scroll_y
        table.clear(columns=True)
        room = self.size.width - table.styles.scrollbar_size_vertical
        widths = top_views.widths(view.columns, room, 2 * table.cell_padding)
        for number, each in enumerate(view.columns):
            arrow = (" ▼" if reverse else " ▲") if number == column else ""
            table.add_column(f"{each.title}{arrow}", width=widths[number])
        for row in rows:
            table.add_row(*_cells(view.columns, row), key=row.key)
        self._rows, self._columns = rows, view.columns
        if keep is not None:
            position = next((n for n, row in enumerate(rows) if row.key == keep), None)
            if position is not None:
                table.move_cursor(row=position, scroll=False)
                table.scroll_to(y=top, animate=False)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Remember where the cursor is, to find it again after a refresh."""
        if event.row_key is not None and event.row_key.value is not None and self._rows:
            self._cursors[-1] = event.row_key.value

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the row: go one place deeper."""
        row = next((row for row in self._rows if row.key == event.row_key.value), None)
        if row is None or row.opens is None:
            return
        self._cursors[-1] = row.key
        self._places.append(row.opens)
        self._sorts.append(None)
        self._cursors.append(None)
        self.query_one("#filter", Input).value = ""
        self._show()

    async def action_back(self) -> None:
        """Close the filter, or else go back to where the row was opened."""
        entry = self.query_one("#filter", Input)
        if entry.display:
            entry.value = ""
            entry.display = False
            self.query_one(DataTable).focus()
        elif len(self._places) > 1:
            for stack in (self._places, self._sorts, self._cursors):
                stack.pop()
        self._show()

    def action_go(self, name: str) -> None:
        """Show one of the tables to begin with."""
        self._places = [top_views.PLACES[name]]
        self._sorts = [None]
        self._cursors = [None]
        self._show()

    def action_sort(self) -> None:
        """Sort by the next column; numbers from the largest down, names from A on."""
        if self._sharing is None or not self._columns:
            return
        view = self._places[-1](self._sharing)
        column = ((self._sorts[-1] or _first_sort(view))[0] + 1) % len(view.columns)
        self._sorts[-1] = (column, view.columns[column].numeric)
        self._show()

    def action_reverse(self) -> None:
        """Turn the order around."""
        if self._sharing is None:
            return
        column, reverse = self._sorts[-1] or _first_sort(self._places[-1](self._sharing))
        self._sorts[-1] = (max(column, 0), not reverse)
        self._show()

    def action_filter(self) -> None:
        """Ask for a text that the rows must contain."""
        entry = self.query_one("#filter", Input)
        entry.display = True
        entry.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the text is typed."""
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter and go back to the table."""
        entry = self.query_one("#filter", Input)
        entry.display = bool(entry.value)
        self.query_one(DataTable).focus()

    def action_pause(self) -> None:
        """Stop to refresh, or continue."""
        self._paused = not self._paused
        self._show()


def _first_sort(view: View) -> tuple[int, bool]:
    return view.sort, view.sort >= 0 and view.columns[view.sort].numeric


def _cells(columns: tuple[Column, ...], row: Row) -> list[Text]:
    cells = []
    for column, value in zip(columns, row.values, strict=True):
        cut = Cut.PATH if "/" in str(value) else Cut.END
        text = shortened(column.show(value), column.width, cut)
        cells.append(Text(text, justify="right" if column.numeric else "left"))
    return cells
