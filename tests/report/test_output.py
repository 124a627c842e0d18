"""A report replaces its file as a whole, or not at all."""

import os
import pathlib
import threading

import pytest

from samepage.errors import SamepageError
from samepage.report import write_report
from samepage.report.forms import PROMETHEUS, REPORTS, SNAPSHOT, TEXT_OR_JSON, choose
from samepage.report.output import replacing
from samepage.snapshot import parquet
from tests.analysis.sample import sample


def write_half(target: str) -> None:
    with replacing(target) as stream:
        stream.write("half")
        raise ZeroDivisionError


def test_a_failure_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "report.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(str(target))
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.txt"]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with replacing(str(tmp_path / "link")) as stream:
        stream.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path: pathlib.Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    write_report(sample(), fifo, "json")
    reader.join()
    assert read[0].startswith("{")


def test_a_place_that_cannot_be_written_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SamepageError, match=r"cannot write .*/no/x.json: No such file"):
        write_report(sample(), tmp_path / "no" / "x.json")


def test_the_suffix_selects_the_format(tmp_path: pathlib.Path) -> None:
    for name, start in (("a.json", "{"), ("b.html", "<!DOCTYPE"), ("c.txt", "3 processes")):
        write_report(sample(), tmp_path / name)
        assert (tmp_path / name).read_text().startswith(start)
    write_report(sample(), tmp_path / "dir")
    assert parquet.is_snapshot(tmp_path / "dir")
    assert choose("x.d/", None, REPORTS) is SNAPSHOT
    assert choose("x.prom", None, REPORTS) is PROMETHEUS
    assert choose("x.json", "prometheus", REPORTS) is PROMETHEUS
    with pytest.raises(SamepageError, match=r"unknown format of x\.pdf"):
        choose("x.pdf", None, REPORTS)
    with pytest.raises(SamepageError, match=r"unknown format of x: use \.txt \.json$"):
        choose("x", None, TEXT_OR_JSON)
