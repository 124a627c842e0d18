"""The HTML report is one whole page that loads nothing, whatever names are in it."""

import base64
import hashlib
import io
from html.parser import HTMLParser

import numpy as np

from samepage.analysis.page_map import FilePage, PageMap
from samepage.analysis.sharing import Sharing
from samepage.report.html import write
from samepage.report.html_page import SORT
from samepage.report.page_svg import COLUMNS, MOST_CELLS, css_class, picture
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from tests.analysis.sample import sample

VOID = {"meta", "rect"}


class Page(HTMLParser):
    """Collects elements, and fails on one that is closed in the wrong place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(snapshot: Snapshot) -> Page:
    stream = io.StringIO()
    write(Sharing(snapshot), stream)
    return Page(stream.getvalue())


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    for snapshot in (sample(), Snapshot.empty()):
        found = page(snapshot)
        for tag, attributes in found.elements:
            assert tag not in ("link", "img", "iframe", "object")
            assert not {"src", "onclick", "onload"} & set(attributes)
            assert (attributes.get("href") or "#").startswith("#")
        # One script, which is the one that the policy names.
        assert [tag for tag, _ in found.elements].count("script") == 1
        digest = base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()
        assert SORT in found.texts
        policy = [a.get("content") for t, a in found.elements if t == "meta"]
        script = f"script-src 'sha256-{digest}'"
        assert f"default-src 'none'; style-src 'unsafe-inline'; {script}" in policy


def test_the_answer_and_the_numbers_are_there() -> None:
    texts = page(sample()).texts
    assert "Sharing saves 16 KiB (4 frames, 24 %)." in texts
    libc = (
        "6 pages. Mapped, by times: 1: 3, 2: 2. "
        "Copied, by processes: 1: 1 (page 5); 2: 1 (page 4). "
        "By pid, mapped + copied: 1: 4+1, 2: 3+2"
    )
    assert libc in texts
    assert "page 1: mapped 2 times" not in texts  # 1 and 2 are one rectangle
    assert "pages 1 to 2: mapped 2 times" in texts
    assert "page 4: in the page cache, not mapped, copied by 2" in texts
    assert "page 5: mapped once, copied by 1" in texts


def test_names_are_escaped() -> None:
    name = '</title><script>alert("1")</script>&amp;'
    builder = SnapshotBuilder("live", host=name)
    builder.add_process(Process(1, argv=(name,), container=name))
    builder.add_process(Process(2))
    file = builder.add_file(1, 1, name)
    builder.add_vma(1, 4096, 8192, "r--p", 0, file, name)
    builder.add_pages(1, [1], [9], [5])
    builder.add_frames([9], [1], [file], [0], [1], [0])
    found = page(builder.build())
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert found.texts.count(name) >= 4


def mapped(pages: dict[int, int]) -> PageMap:
    """Return the map of pages that are mapped so often."""
    return PageMap(
        np.array(list(pages), dtype=np.int64),
        np.ones(len(pages), dtype=bool),
        np.array(list(pages.values()), dtype=np.int32),
        np.zeros(len(pages), dtype=np.int32),
    )


def test_every_page_of_a_file_is_in_the_picture_once() -> None:
    drawn = Page(picture(mapped({n: n % 3 for n in range(0, 300, 7)}), 300)).elements
    widths = [int(attributes["width"] or "0") for tag, attributes in drawn if tag == "rect"]
    cells = [width // 10 + 1 for width in widths]
    assert sum(cells) == 300


def test_a_large_file_has_cells_of_several_pages_and_no_empty_rows() -> None:
    drawn = Page(picture(mapped({5: 1, 999_999: 2}), 1_000_000))
    assert drawn.elements[0][1]["height"] == "20"
    assert "pages 0 to 63: mapped once" in drawn.texts
    assert "pages 999936 to 999999: mapped 2 times" in drawn.texts
    assert 1_000_000 / 64 <= MOST_CELLS < 1_000_000 / 32


def test_a_page_past_the_known_size_is_drawn() -> None:
    rectangles = [t for t, _ in Page(picture(mapped({COLUMNS: 1}), 0)).elements]
    assert rectangles == ["svg", "rect", "title", "rect", "title"]


def test_a_page_that_more_processes_map_is_darker() -> None:
    mapped = [css_class(FilePage(0, True, times, 0)) for times in (1, 2, 3, 4, 9, 999)]
    assert mapped == ["m1", "m2", "m2", "m3", "m4", "m7"]
    assert css_class(FilePage(0, True, 2, 1)) == "m2 copied"
    assert css_class(FilePage(0, True, 0, 1)) == "copied"
    assert css_class(FilePage(0, True, 0, 0)) == "cached"
    assert css_class(FilePage(0, False, 0, 0)) == "absent"
