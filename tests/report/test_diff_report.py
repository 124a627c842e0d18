"""The comparison as text and as JSON."""

import io
import json

from samepage.analysis.diff import diff
from samepage.report.diff import answer, print_diff, write_json
from samepage.report.tables import Terminal
from samepage.snapshot.columns import Snapshot
from tests.analysis.sample import sample


def test_no_difference_is_one_line() -> None:
    assert answer(diff(sample(), sample())) == [
        "No difference: the same processes have the same pages."
    ]


def test_what_changed_is_listed_within_the_width() -> None:
    for width in (40, 80, 200):
        stream = io.StringIO()
        print_diff(diff(Snapshot.empty(), sample()), Terminal(stream, width))
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert "3 new, 0 lost" in " ".join(" ".join(lines).split())
    # RSS and PSS; of the 7 pages 3 are anonymous, 3 of libc and one is the vDSO's
    row = ["2", "b", "new", "+28", "KiB", "+20", "KiB", "+12", "KiB", "+12", "KiB"]
    assert any(line.split() == row for line in lines), lines
    assert any(line.startswith("/lib/libc.so.6") and "+20 KiB" in line for line in lines)


def test_json_has_both_sides() -> None:
    stream = io.StringIO()
    write_json(diff(sample(), Snapshot.empty()), stream)
    found = json.loads(stream.getvalue())
    assert (found["equal"], found["match"]) == (False, "program")
    assert [process["state"] for process in found["processes"]] == ["lost"] * 3
    assert found["processes"][0]["before"]["pss"] == 5
    assert found["processes"][0]["after"] is None
    assert found["before"]["frames"] == found["before"]["pss"] == 13
    libc = next(file for file in found["files"] if file["path"] == "/lib/libc.so.6")
    assert (libc["state"], libc["lost"], libc["before"]["frames"]) == ("lost", 5, 5)
