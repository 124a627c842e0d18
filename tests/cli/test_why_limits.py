"""`samepage why` where it may not, or cannot, see all: one clear line names what is missing."""

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from samepage.abi.perf_event import EventType, Sample
from samepage.errors import SamepageError
from samepage.trace import inject
from samepage.trace.keeper import Keeper
from samepage.trace.perf import event
from samepage.trace.perf.event import EventSpec
from samepage.trace.writes import FINISHED
from tests.cli.test_why_targets import ALPHA, BETA, TABLE, WORKERS, of_function, server
from tests.cli.watching import WHY, Watcher, needs_events

__all__ = ["server"]

NO_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
"""An ordinary user's rights, without the need for files that such a user can read."""


@pytest.fixture
def no_rights() -> list[str]:
    needs_events()
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    return NO_RIGHTS


@contextlib.contextmanager
def sleeper(code: str, *before: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python process that runs `code`, prints a line and waits for one."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", f"{code}\nprint(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        try:
            yield process
        finally:
            process.kill()


def why(*arguments: str, before: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*before, *WHY, *arguments], capture_output=True, text=True, timeout=120)


def flat(text: str) -> str:
    """Lines that the terminal's width has folded, as one."""
    return " ".join(text.split())


def test_an_ordinary_user_sees_the_copies_of_own_processes(
    no_rights: list[str], server: Path, tmp_path: Path
) -> None:
    watcher = Watcher([], tmp_path / "why.json", [str(server)], before=no_rights)
    watcher.wait_for("done")
    found = watcher.finish()
    assert of_function(found, "alpha")["first_written_pages"] == ALPHA * WORKERS
    assert of_function(found, "beta")["first_written_pages"] == (BETA - 50) * WORKERS
    assert of_function(found, "table_writer")["first_written_pages"] == TABLE * WORKERS
    assert found["complete"] is False
    (line,) = found["missing"]
    assert line.startswith("without root (CAP_PERFMON, CAP_SYS_ADMIN): the kernel's own writes")
    assert "perf_event_paranoid is" in line


def test_another_users_process_is_one_line(no_rights: list[str]) -> None:
    with sleeper("") as process:
        run = why(str(process.pid), "--for", "100ms", before=no_rights)
    assert run.returncode == 2
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert "the kernel does not let this user record" in line
    assert "run as root" in line


def test_a_process_that_ends_meanwhile_ends_the_watching(no_rights: list[str]) -> None:
    with sleeper("import threading, os; threading.Timer(6, os._exit, [0]).start()") as process:
        run = why(str(process.pid), "--for", "100s")
    assert run.returncode == 0, run.stderr
    assert "1 processes ended meanwhile" in flat(run.stdout)
    assert "complete: yes" not in run.stdout


def needs_rearming() -> None:
    needs_events()
    with sleeper("") as process, Keeper() as keeper:
        try:
            keeper.arm(process.pid).close()
        except SamepageError as error:
            pytest.skip(error.message)


def test_a_process_that_is_traced_already_is_named(no_rights: list[str]) -> None:
    needs_rearming()
    libc = ctypes.CDLL(None, use_errno=True)
    seize, detach = 0x4206, 17
    with sleeper("") as process:
        assert libc.ptrace(seize, process.pid, 0, 0) == 0
        try:
            run = why(str(process.pid), "--for", "200ms", "--epoch", "50ms")
        finally:
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, 0)
            libc.ptrace(detach, process.pid, 0, 0)
            os.kill(process.pid, signal.SIGCONT)
    assert run.returncode == 0, run.stderr
    assert f"process {process.pid} is traced by process {os.getpid()} already" in flat(run.stdout)
    assert "Only the first writer" in flat(run.stdout) or "0 pages" in run.stdout


def test_a_process_in_uninterruptible_sleep_is_named(tmp_path: Path) -> None:
    needs_rearming()
    source = tmp_path / "sleeps.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n"
        'int main(void) { puts(""); fflush(stdout);\n'
        "if (vfork() == 0) { sleep(1000); _exit(0); } }\n"
    )
    subprocess.run(["gcc", "-w", "-o", tmp_path / "sleeps", source], check=True)
    with subprocess.Popen(
        [tmp_path / "sleeps"], stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while " D " not in Path(f"/proc/{process.pid}/stat").read_text():
            time.sleep(0.01)
        try:
            run = why(str(process.pid), "--for", "200ms", "--epoch", "50ms")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert run.returncode == 0, run.stderr
    assert f"process {process.pid} did not stop within" in flat(run.stdout)


SECCOMP = """
import ctypes, struct
libc = ctypes.CDLL(None)
allow = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 1, ctypes.addressof(allow)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
"""


def test_a_process_under_seccomp_is_left_alone_and_named(no_rights: list[str]) -> None:
    needs_rearming()
    with sleeper(SECCOMP) as process:
        run = why(str(process.pid), "--for", "200ms", "--epoch", "50ms")
    assert run.returncode == 0, run.stderr
    assert f"process {process.pid} runs under seccomp" in flat(run.stdout)
    assert "its first ones can" in flat(run.stdout)


def test_without_the_right_to_trace_later_writers_are_reported_missing(
    no_rights: list[str],
) -> None:
    code = (
        "import sys; from samepage.trace.keeper import Keeper\n"
        "from samepage.errors import SamepageError\n"
        "try: Keeper().arm(int(sys.argv[1]))\nexcept SamepageError as e: print(e.message)"
    )
    with sleeper("") as process:
        run = subprocess.run(
            [*no_rights, sys.executable, "-c", code, str(process.pid)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.stdout == f"process {process.pid} belongs to another user: run as root\n"


def test_a_kernel_that_forbids_tracing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tid: int, options: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(inject.ptrace, "seize", refuse)
    with sleeper("") as process, pytest.raises(SamepageError, match=r"ptrace_scope 3 forbids"):
        inject._seize(process.pid)


def test_without_tracefs_the_reason_is_named(no_rights: list[str]) -> None:
    code = (
        "from samepage.trace.perf import tracefs; from samepage.errors import SamepageError\n"
        "tracefs._MOUNT_POINTS = ()\n"
        "try: tracefs.find_tracepoints('kmem:mm_page_alloc')\n"
        "except SamepageError as e: print(e.message)"
    )
    run = subprocess.run(
        [*no_rights, sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert run.stdout.startswith("tracefs is not mounted at /sys/kernel/tracing, and mounting it")


@pytest.mark.parametrize(
    ("paranoid", "lockdown", "expected"),
    [
        ("3", "[none] integrity confidentiality", "(kernel.perf_event_paranoid is 3)"),
        ("4", "unknown", "(kernel.perf_event_paranoid is 4)"),
        (
            "2",
            "none integrity [confidentiality]",
            "(kernel.perf_event_paranoid is 2, and kernel lockdown is confidentiality)",
        ),
    ],
)
def test_what_forbids_events_is_named(
    monkeypatch: pytest.MonkeyPatch, paranoid: str, lockdown: str, expected: str
) -> None:
    monkeypatch.setattr(event, "_setting", lambda path: lockdown if "lock" in path else paranoid)
    found = event._reason(EventSpec(FINISHED, EventType.SOFTWARE, 5, Sample(0)), errno.EACCES)
    assert isinstance(found, SamepageError)
    assert expected in found.message
    assert "run as root, or give samepage CAP_PERFMON" in found.message
