"""Later writers of a page, found by re-armed write protection of real processes."""

import contextlib
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from mmap import PAGESIZE

import numpy as np
import pytest

from samepage.errors import SamepageError
from samepage.trace.keeper import Keeper
from samepage.trace.write_protect import Registration, WrittenPages, register_private

TARGET = """
import ctypes, mmap, os, sys
page, pages = mmap.PAGESIZE, 400
m = mmap.mmap(-1, page * pages, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_NOHUGEPAGE)
for i in range(pages):
    m[i * page] = 1
print(ctypes.addressof(ctypes.c_char.from_buffer(m)) // page, flush=True)
for line in sys.stdin:
    command, count = line.split()
    if command == "write":
        for i in range(int(count)):
            m[i * page] = 2
        print("done", flush=True)
    elif command == "fork":
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            for i in range(int(count)):
                m[i * page] = 3
            print(os.getpid(), flush=True)
            os.kill(os.getpid(), 19)
            os._exit(0)
"""


class Target:
    """A process that writes to as many pages as it is asked to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.base = int(self.answer())
        self.pid = self.process.pid

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def write(self, count: int) -> None:
        self.ask(f"write {count}")
        assert self.answer() == "done\n"

    def own(self, pages: np.ndarray) -> list[int]:
        """Those of its area, from 0."""
        inside = pages.astype(np.int64) - self.base
        return inside[(inside >= 0) & (inside < 400)].tolist()


@pytest.fixture
def target() -> Iterator[Target]:
    found = Target()
    yield found
    found.process.kill()
    found.process.communicate(timeout=10)


@pytest.fixture
def arm(target: Target) -> Iterator[Callable[[], Registration]]:
    with Keeper() as keeper, contextlib.ExitStack() as stack:

        def armed() -> Registration:
            try:
                registration = keeper.arm(target.pid)
            except SamepageError as error:
                pytest.skip(error.message)
            stack.callback(registration.close)
            assert register_private(registration, target.pid) > 3
            return registration

        yield armed


def test_each_scan_finds_who_wrote_since_the_last_one(
    target: Target, arm: Callable[[], Registration]
) -> None:
    arm()
    pages = WrittenPages(target.pid)
    assert target.own(pages.take()) == list(range(400)), "the first scan arms what is present"
    assert target.own(pages.take()) == []
    for count in (7, 300, 7, 7):
        target.write(count)
        assert target.own(pages.take()) == list(range(count))
    assert target.own(pages.take()) == []
    pages.close()


def test_a_child_is_armed_from_its_first_instruction_on(
    target: Target, arm: Callable[[], Registration]
) -> None:
    registration = arm()
    pages = WrittenPages(target.pid)
    pages.take()
    target.ask("fork 20")
    child = None
    end = time.monotonic() + 10
    while child is None and time.monotonic() < end:
        child = registration.forked()
    assert child is not None
    pid = int(target.answer())
    written = WrittenPages(pid)
    assert target.own(written.take()) == list(range(20))
    assert child.alive()
    os.kill(pid, signal.SIGKILL)
    target.write(5)  # the parent runs as before
    end = time.monotonic() + 10
    while child.alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert not child.alive()
    assert written.take().tolist() == []
    child.close()
    written.close()


def test_closing_undoes_it(target: Target, arm: Callable[[], Registration]) -> None:
    registration = arm()
    pages = WrittenPages(target.pid)
    pages.take()
    registration.close()
    target.write(50)
    assert pages.take().tolist() == [], "nothing is registered any more"
    assert not any("uw" in line.split() for line in vm_flags(target.pid))
    pages.close()


def vm_flags(pid: int) -> list[str]:
    with open(f"/proc/{pid}/smaps") as file:
        return [line for line in file if line.startswith("VmFlags")]


def test_no_descriptor_and_no_page_is_left_in_the_target(
    target: Target, arm: Callable[[], Registration]
) -> None:
    def look() -> tuple[list[str], bytes]:
        with open(f"/proc/{target.pid}/maps") as file:
            stack = next(line for line in file if line.endswith("[stack]\n"))
        start, end = (int(word, 16) for word in stack.split()[0].split("-"))
        with open(f"/proc/{target.pid}/pagemap", "rb", 0) as file:
            entries = os.pread(file.fileno(), (end - start) // PAGESIZE * 8, start // PAGESIZE * 8)
        frames = struct.unpack(f"<{len(entries) // 8}Q", entries)
        present = bytes(entry >> 63 for entry in frames)
        return sorted(os.listdir(f"/proc/{target.pid}/fd")), present

    before = look()
    arm()
    assert look() == before


def test_a_call_that_was_interrupted_is_restarted(arm: Callable[[], Registration]) -> None:
    """sleep is in clock_nanosleep, which the kernel restarts with the time that is left."""
    with subprocess.Popen(["sleep", "1.5"]) as sleeper, Keeper() as keeper:
        time.sleep(0.3)
        start = time.monotonic()
        try:
            for _ in range(5):
                keeper.arm(sleeper.pid).close()
        except SamepageError as error:
            sleeper.kill()
            pytest.skip(error.message)
        assert sleeper.wait(timeout=10) == 0
        assert time.monotonic() - start < 5


def test_a_stopped_process_stays_stopped(target: Target, arm: Callable[[], Registration]) -> None:
    os.kill(target.pid, signal.SIGSTOP)
    wait_for_state(target.pid, "T")
    arm()
    wait_for_state(target.pid, "T")
    os.kill(target.pid, signal.SIGCONT)
    target.write(3)


def wait_for_state(pid: int, state: str) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rsplit(")", 1)[1].split()[0] == state:
                return
        time.sleep(0.01)
    raise AssertionError(f"{pid} is not in state {state}")


def test_a_process_that_is_gone_or_ours_already_is_named() -> None:
    with Keeper() as keeper:
        with pytest.raises(ProcessLookupError):
            keeper.arm(2**22 - 3)
        with pytest.raises(SamepageError, match=r"vDSO|another user"):
            keeper.arm(2)  # kthreadd


COUNTER = """
    import sys
    print("ready", flush=True)
    total, memory = 0, bytearray(1 << 20)
    for i in range(3_000_000):
        memory[i * 4099 % len(memory)] = i & 255
        total = (total * 31 + i) & 0xFFFFFFFF
    print(total, sum(memory), flush=True)
"""
ARMER = """
    import os, sys
    from samepage.trace.keeper import Keeper
    from samepage.trace.write_protect import WrittenPages, register_private
    keeper = Keeper()
    print("ready", flush=True)
    while True:
        registration = keeper.arm(int(sys.argv[1]))
        register_private(registration, int(sys.argv[1]))
        pages = WrittenPages(int(sys.argv[1]))
        for _ in range(3):
            pages.take()
        pages.close()
        registration.close()
"""


def test_killing_us_at_any_moment_changes_nothing_of_what_the_target_computes(
    target: Target, arm: Callable[[], Registration]
) -> None:
    arm().close()  # skips where it cannot be done
    code = textwrap.dedent(COUNTER)
    expected = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    ).stdout
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as counter:
        assert counter.stdout is not None
        assert counter.stdout.readline() == "ready\n"
        chance = random.Random(5)
        while counter.poll() is None:
            armer = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(ARMER), str(counter.pid)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert armer.stdout is not None
            armer.stdout.readline()
            time.sleep(chance.uniform(0, 0.02))
            armer.kill()
            armer.communicate(timeout=10)
        assert "ready\n" + counter.stdout.read() == expected
        assert counter.returncode == 0
