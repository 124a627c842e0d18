"""The HTML report of 330 processes in a real browser, on narrow and wide screens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from samepage.report import write_report
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from tests.report.chromium import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH")

WORKERS = 240
OTHERS = 90
FILES = 150
HEIGHT = 12_000
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
CHARACTERS = 8


def busy_host() -> Snapshot:
    """240 equal workers, 90 other programs with long names, 150 files."""
    builder = SnapshotBuilder("live", host="shop", kernel="6.18.0")
    files = [
        builder.add_file(1, 1 + n, f"{LIBRARIES}/a/long/way/to/lib{n}.so.{n}", size=9 << 14)
        for n in range(FILES)
    ]
    worker = ("gunicorn: worker", "shop.wsgi:application", "--config", "/etc/gunicorn/shop.conf.py")
    for number in range(WORKERS + OTHERS):
        pid = 1000 + number
        argv = (
            worker if number < WORKERS else (f"/opt/service-{number}/bin/server", "--" + "x" * 200)
        )
        builder.add_process(
            Process(pid, argv=argv, comm="server", exe=argv[0], uid=max(0, number - WORKERS) % 3)
        )
        mine = files if number == 0 else files[number % FILES :][:2]
        for place, file in enumerate(mine):
            start = 0x1000 + 64 * place
            builder.add_vma(pid, start << 12, (start + 8) << 12, "r-xp", 0, file, f"/lib{file}")
            frames = [1 + 8 * file + page for page in range(8)]
            builder.add_pages(pid, range(start, start + 8), frames, [5] * 8)
    for file in files:
        frames = [1 + 8 * file + page for page in range(8)]
        builder.add_frames(frames, [1] * 8, [file] * 8, range(8), [3] * 8, [0] * 8)
    return builder.build()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(busy_host(), path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


NARROWEST = """
(() => {
  const probe = document.createElement("span");
  probe.textContent = "0".repeat(100);
  document.body.append(probe);
  const character = probe.getBoundingClientRect().width / 100;
  probe.remove();
  const cells = [...document.querySelectorAll("th, td")].filter((cell) => cell.offsetWidth);
  return Math.min(...cells.map((cell) => cell.getBoundingClientRect().width)) / character;
})()
"""


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_no_column_collapses_and_the_page_stays_short(
    browser: Browser, page: Path, width: int, tmp_path: Path
) -> None:
    browser.open(page, width)
    browser.screenshot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
    height = browser.run("document.documentElement.scrollHeight")
    assert 900 < height < HEIGHT
    assert browser.run(NARROWEST) >= CHARACTERS
    # The page itself does not scroll sideways: tables do.
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('nav a').length") >= 4
    # Equal workers are one row, and open to all of them.
    rows = "document.querySelector('table').tBodies[0].rows"
    assert browser.run(f"{rows}.length") == 1 + OTHERS
    first = "document.querySelector('td details')"
    assert browser.run(f"{first}.querySelector('summary').textContent").startswith(f"{WORKERS} x ")
    browser.run(f"{first}.open = true")
    assert browser.run(f"{first}.querySelector('tbody').rows.length") == WORKERS
    assert browser.run(NARROWEST) >= CHARACTERS


def test_a_click_sorts_by_the_numbers_of_a_column(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    heads = "document.querySelector('table').tHead.rows[0].cells"
    titles = browser.run(f"[...{heads}].map((head) => head.textContent)")
    column = titles.index("PID")
    body = "document.querySelector('table').tBodies[0].rows"
    shown = f"[...{body}].map((row) => row.cells[{column}].textContent)"
    for ascending in (False, True):
        browser.run(f"{heads}[{column}].click()")
        pids = [int(text) for text in browser.run(shown) if text]
        assert pids == sorted(pids, reverse=not ascending)
        assert len(pids) == OTHERS


def test_the_policy_lets_nothing_else_run(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'),"
        "{textContent: 'window.broken = 1'}))"
    )
    assert browser.run("window.broken === undefined")
