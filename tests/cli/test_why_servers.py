"""`samepage why` on servers with four workers: every page that left sharing is explained.

SAMEPAGE_WHY_RUNS is how often each is watched (`make verify-why`: 10; the suite: once).
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from samepage.errors import SamepageError
from samepage.trace.keeper import Keeper
from tests.cli.watching import Watcher, needs_events

SERVERS = Path(__file__).parent / "why_servers"
RUNS = int(os.environ.get("SAMEPAGE_WHY_RUNS", "1"))
REQUESTS = 120
DEBIAN_PACKAGES = "/usr/lib/python3/dist-packages"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def gunicorn(port: int) -> tuple[list[str], dict[str, str]]:
    """With this interpreter if it can, else with Debian's (whose functions have no names)."""
    environment = {"PYTHONPATH": f"{DEBIAN_PACKAGES}:{SERVERS}", "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ["-m", "gunicorn", "--preload", "-w", "4", "-b", f"127.0.0.1:{port}", "app:app"]
    for python in (sys.executable, "/usr/bin/python3"):
        run = subprocess.run(
            [python, "-m", "gunicorn", "--version"],
            env={**os.environ, **environment},
            capture_output=True,
        )
        if run.returncode == 0:
            return [python, *arguments], environment
    pytest.skip("gunicorn (python3-gunicorn) is not installed")


def puma(port: int) -> tuple[list[str], dict[str, str]]:
    if shutil.which("puma") is None:
        pytest.skip("puma is not installed")
    return ["puma", "-C", str(SERVERS / "puma.rb"), "-b", f"tcp://127.0.0.1:{port}"], {}


@contextlib.contextmanager
def serving(command: list[str], environment: Mapping[str, str], port: int) -> Iterator[int]:
    """A server that answers; its pid."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
        cwd="/",
    )
    try:
        end = time.monotonic() + 90
        while len(children(process.pid)) < 4 or not answers(port):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.1)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def answers(port: int) -> bool:
    try:
        ask(port)
    except OSError:
        return False
    return True


def ask(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        answer.read()


def watched(pid: int, port: int, output: Path, *options: str) -> dict[str, Any]:
    watcher = Watcher([str(pid), *options], output)
    watcher.until_armed()
    for _ in range(REQUESTS):
        ask(port)
    return watcher.finish()


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("server", [gunicorn, puma])
def test_every_copy_of_a_web_server_is_explained(server: Any, run: int, tmp_path: Path) -> None:
    needs_events()
    port = free_port()
    command, environment = server(port)
    with serving(command, environment, port) as pid:
        found = watched(pid, port, tmp_path / "why.json")
    assert found["complete"] is True, found["missing"]
    assert found["unexplained_pages"] == found["lost_events"] == 0
    assert len(found["processes"]) == 5
    assert found["unshared_pages"] > 500
    runtime = "cpython." if server is gunicorn else "ruby."
    of_runtime = [row for row in found["causes"] if row["cause"].startswith(runtime)]
    copied = sum(row["first_written_pages"] for row in of_runtime)
    assert copied > found["copied_pages"] // 2


@pytest.mark.skipif(RUNS < 2, reason="two watched runs of gunicorn: make verify-why")
def test_freezing_saves_on_gunicorn_what_was_predicted(tmp_path: Path) -> None:
    needs_events()
    port = free_port()
    command, environment = gunicorn(port)
    with serving(command, environment, port) as pid:
        with Keeper() as keeper:
            try:
                keeper.arm(pid).close()
            except SamepageError as error:
                pytest.skip(error.message)
        plain = watched(
            pid, port, tmp_path / "plain.json", "--epoch", "50ms", "--what-if", "cpython.gc"
        )
    with serving(command, {**environment, "FREEZE": "1"}, port) as pid:
        frozen = watched(pid, port, tmp_path / "frozen.json")
    (supposition,) = plain["what_if"]
    predicted, measured = supposition["left_pages"], frozen["copied_pages"]
    print(f"copied {plain['copied_pages']}, predicted {predicted}, measured {measured}")
    assert abs(predicted - measured) <= measured * 0.05
