"""`samepage top`: by Textual's pilot, and in a real terminal."""

import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("textual", reason="Textual is not installed (the extra samepage[top])")

from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.records import fields
from samepage.report import top_views
from samepage.report.top_app import TopApp
from samepage.report.top_views import View
from samepage.snapshot.columns import Frames, Snapshot
from tests.analysis.sample import sample

SIZE = (80, 24)


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    processes = [subprocess.Popen(["sleep", str(1000 + number)]) for number in range(3)]
    time.sleep(0.2)
    yield sorted(process.pid for process in processes)
    for process in processes:
        process.kill()
        process.wait()


def frames_are_visible() -> bool:
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(id(object) // 4096 * 8)
        return int.from_bytes(pagemap.read(8), "little") & ((1 << 55) - 1) != 0


def source(pids: list[int]) -> Callable[[], Snapshot]:
    return lambda: capture(pids)


async def loaded(app: TopApp, pilot: Pilot[None]) -> None:
    for _ in range(400):
        if table(app).row_count:
            return
        await pilot.pause(0.05)
    raise AssertionError("nothing was read in time")


def table(app: TopApp) -> DataTable[Any]:
    return app.query_one(DataTable)


def column(app: TopApp, number: int) -> list[str]:
    return [str(table(app).get_row_at(row)[number]) for row in range(table(app).row_count)]


def place(app: TopApp) -> str:
    return str(app.query_one("#place", Static).render())


@pytest.mark.asyncio
async def test_processes_are_shown_sorted_and_reversed(sleepers: list[int]) -> None:
    app = TopApp(source(sleepers))
    async with app.run_test(size=SIZE) as pilot:
        await loaded(app, pilot)
        assert sorted(column(app, 1)) == sorted(map(str, sleepers))
        # After PSS, USS, RSS and DIRTY comes the name, from A on.
        await pilot.press("s", "s", "s", "s")
        assert column(app, 0) == ["sleep 1000", "sleep 1001", "sleep 1002"]
        await pilot.press("r")
        assert column(app, 0) == ["sleep 1002", "sleep 1001", "sleep 1000"]
        await pilot.press("s")
        assert column(app, 1) == [str(pid) for pid in reversed(sleepers)]


@pytest.mark.asyncio
async def test_the_filter_narrows_while_it_is_typed(sleepers: list[int]) -> None:
    app = TopApp(source(sleepers))
    async with app.run_test(size=SIZE) as pilot:
        await loaded(app, pilot)
        await pilot.press("slash", *"1001")
        assert column(app, 0) == ["sleep 1001"]
        await pilot.press("enter")
        assert table(app).has_focus
        await pilot.press("escape")
        assert app.query_one(Input).value == ""
        assert len(column(app, 0)) == 3


@pytest.mark.asyncio
@pytest.mark.skipif(not frames_are_visible(), reason="frame numbers need CAP_SYS_ADMIN")
async def test_a_process_is_opened_down_to_its_pages(sleepers: list[int]) -> None:
    app = TopApp(source(sleepers[:1]))
    async with app.run_test(size=SIZE) as pilot:
        await loaded(app, pilot)
        await pilot.press("enter")
        mappings = column(app, 5)
        assert any("libc.so.6" in name for name in mappings)
        row = next(
            n
            for n, (perms, name) in enumerate(zip(column(app, 1), mappings, strict=True))
            if perms == "r-xp" and "libc.so.6" in name
        )
        table(app).move_cursor(row=row)
        await pilot.press("enter")
        assert re.search(r"\d+ pages of", place(app))
        assert set(column(app, 3)) == {"file"}
        assert all(int(times.removesuffix("x")) > 1 for times in column(app, 2)[:3])
        await pilot.press("escape")
        assert column(app, 5) == mappings
        await pilot.press("escape")
        assert place(app).startswith("Processes")


@pytest.mark.asyncio
async def test_a_file_is_opened_down_to_its_frames(sleepers: list[int]) -> None:
    app = TopApp(source(sleepers))
    async with app.run_test(size=SIZE) as pilot:
        await loaded(app, pilot)
        await pilot.press("f")
        assert any("libc.so.6" in name for name in column(app, 0))
        await pilot.press("enter")
        assert "processes" in place(app)
        await pilot.press("u")
        assert column(app, 0) == [pwd.getpwuid(os.getuid()).pw_name]


def test_without_frames_none_are_shown(sleepers: list[int]) -> None:
    snapshot = capture(sleepers)
    frames = snapshot.frames
    snapshot.frames = Frames(*(getattr(frames, name)[:0] for name in fields(frames)))
    snapshot.pages.frame[:] = 0
    sharing = Sharing(snapshot)

    def shown(view: View, title: str) -> set[str]:
        number = [column.title for column in view.columns].index(title)
        return {view.columns[number].show(row.values[number]) for row in view.rows}

    files = top_views.files(sharing)
    assert shown(files, "FRAMES") == shown(files, "SAVED") == {"?"}
    assert shown(files, "MAPPED") != {"?"}
    users = top_views.PLACES["user"](sharing)
    assert shown(users, "FREED") == shown(users, "FRAMES") == {"?"}
    assert all("0 frames" not in row.opens(sharing).title for row in files.rows if row.opens)


@pytest.mark.asyncio
async def test_it_refreshes_and_keeps_the_cursor(sleepers: list[int]) -> None:
    app = TopApp(source(sleepers), interval=0.2)
    async with app.run_test(size=SIZE) as pilot:
        await loaded(app, pilot)
        await pilot.press("down")
        chosen = app._cursors[-1]
        first = app._sharing
        for _ in range(400):
            await pilot.pause(0.05)
            if app._sharing is not first:
                break
        assert app._sharing is not first
        cursor = table(app).cursor_row
        assert str(table(app).get_row_at(cursor)[1]) == chosen
        await pilot.press("space")
        await pilot.pause(0.5)
        paused = app._sharing
        await pilot.pause(0.6)
        assert app._sharing is paused


@pytest.mark.asyncio
async def test_everything_fits_80_columns(sleepers: list[int]) -> None:
    app = TopApp(source(sleepers))
    async with app.run_test(size=SIZE) as pilot:
        await loaded(app, pilot)
        for key in ("p", "f", "g", "c", "u", "p", "enter", "enter"):
            await pilot.press(key)
            assert table(app).max_scroll_x == 0, key


@pytest.mark.asyncio
async def test_a_model_run_is_shown_once() -> None:
    app = TopApp(sample, interval=None)
    async with app.run_test(size=SIZE) as pilot:
        await loaded(app, pilot)
        assert column(app, 0) == ["a -x", "b", "c"]
        assert "one snapshot" in str(app.query_one("#sums", Static).render())
        await pilot.press("enter")
        assert column(app, 0)[0] == "000000100000"
        await pilot.press("g")
        assert column(app, 0) == ["/bin/a", "/bin/b", "/bin/c"]


def test_without_a_terminal_is_a_one_line_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from samepage.cli.main import main; main()", "top"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "samepage: top needs a terminal; use `samepage live` in a pipe\n"


@pytest.fixture
def terminal() -> Iterator[list[str]]:
    """The beginning of a tmux command with a server of its own."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    command = ["tmux", "-L", f"samepage-{os.getpid()}", "-f", "/dev/null"]
    yield command
    subprocess.run([*command, "kill-server"], capture_output=True, timeout=20)


def test_in_a_real_terminal_of_80_by_24(terminal: list[str], sleepers: list[int]) -> None:
    code = "from samepage.cli.main import main; main()"
    start = [*terminal, "new-session", "-d", "-x", "80", "-y", "24"]
    program = [sys.executable, "-c", code, "top", *map(str, sleepers)]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONPATH": os.getcwd()}
    subprocess.run([*start, *program], check=True, env=environment, timeout=20)

    def screen_with(text: str) -> str:
        seen = ""
        for _ in range(200):
            done = subprocess.run(
                [*terminal, "capture-pane", "-p"], capture_output=True, text=True, timeout=20
            )
            seen = done.stdout
            if text in seen:
                return seen
            time.sleep(0.1)
        raise AssertionError(f"no {text!r} on the screen:\n{seen}")

    def press(key: str) -> None:
        subprocess.run([*terminal, "send-keys", key], check=True, timeout=20)

    screen_with("q Quit")
    screen = screen_with("sleep 1002")
    assert "PSS" in screen
    assert max(map(len, screen.splitlines())) <= 80
    press("f")
    screen_with("libc.so.6")
    press("Enter")
    screen_with("MAPPED")
    press("q")
    for _ in range(100):
        done = subprocess.run([*terminal, "list-sessions"], capture_output=True, timeout=20)
        if done.returncode:
            return  # the program ended, and with it the last session
        time.sleep(0.1)
    raise AssertionError("q does not end it")


@pytest.mark.asyncio
@pytest.mark.parametrize("width", [80, 130, 200])
async def test_the_whole_width_is_used(sleepers: list[int], width: int) -> None:
    app = TopApp(source(sleepers))
    async with app.run_test(size=(width, 24)) as pilot:
        await loaded(app, pilot)
        for key in ("", "enter"):  # processes, and the mappings of one
            if key:
                await pilot.press(key)
            used = sum(each.get_render_width(table(app)) for each in table(app).columns.values())
            assert width - 2 <= used <= width
        await pilot.resize_terminal(width + 40, 24)
        await pilot.pause(0.1)
        used = sum(each.get_render_width(table(app)) for each in table(app).columns.values())
        assert width + 38 <= used <= width + 40
