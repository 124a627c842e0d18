"""The timeline: a line for each event."""

from samepage.report.timeline import HEADER, lines
from samepage.snapshot.columns import Snapshot
from tests.analysis.sample import sample


def test_each_event_is_a_line() -> None:
    header, *found = lines(sample())
    assert header == HEADER
    assert [line.split(maxsplit=3) for line in found] == [
        ["1", "1", "mmap", "0x000000100000      4           /lib/libc.so.6 page 0"],
        ["2", "1", "file_read",
         "0x000000101000      3       11  /lib/libc.so.6 page 1, hit, at strlen"],
        ["3", "2", "cow", "0x000000504000      1       22  /lib/libc.so.6 page 4, miss"],
    ]  # fmt: skip


def test_a_snapshot_without_events_is_one_line() -> None:
    assert list(lines(Snapshot.empty())) == ["No events: only runs on the model record them."]
