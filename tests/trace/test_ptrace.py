"""Programs are held at one instant, undisturbed, and never left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence

import pytest

from samepage.abi.auxv import Aux
from samepage.errors import SamepageError
from samepage.stop_at import StopAt
from samepage.trace import ptrace
from samepage.trace.launch import Launch, auxiliary_vector, launch
from samepage.trace.reap import tracees
from samepage.trace.traced import Process, TracedGroup, Tree

ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _why_not() -> str | None:
    try:
        with TracedGroup() as group:
            group.run(Launch("/usr/bin/true", ("true",), ENV))
    except (SamepageError, OSError) as error:
        return f"programs cannot be traced here: {error}"
    return None


WHY_NOT = _why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def program(*argv: str) -> Launch:
    return Launch(f"/usr/bin/{argv[0]}", argv, ENV)


def run(*argv: str, stop_at: StopAt = StopAt.EXIT) -> list[tuple[tuple[int, ...], int | None]]:
    with TracedGroup(stop_at, timeout=20) as group:
        tree = group.run(program(*argv))
        assert tree.lost == []
        return [(process.key, process.wait_status) for process in tree.processes]


def resident(pid: int) -> dict[str, int]:
    """VmRSS and its parts, in KiB."""
    with open(f"/proc/{pid}/status") as file:
        fields = (line.split() for line in file if line.startswith(("Vm", "Rss")))
        return {words[0]: int(words[1]) for words in fields}


@pytest.fixture
def left_behind() -> Callable[[], set[tuple[int, str]]]:
    """A function that gives the processes below this one, zombies included, that are new."""
    before = children()
    return lambda: children() - before


def children() -> set[tuple[int, str]]:
    """All processes below this one, zombies included."""
    out = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid=,stat=,comm="], capture_output=True, text=True, check=True
    ).stdout
    parents = {}
    for line in out.splitlines():
        pid, ppid, what = line.split(None, 2)
        if " ps" not in what:
            parents[int(pid), what] = int(ppid)
    found: set[tuple[int, str]] = set()
    todo = [os.getpid()]
    while todo:
        top = todo.pop()
        below = {process for process, ppid in parents.items() if ppid == top}
        found |= below
        todo += [pid for pid, _ in below]
    return found


def test_a_program_is_held_at_its_exit_with_its_memory() -> None:
    with TracedGroup() as group:
        (process,) = group.run(program("true")).processes
        assert process.wait_status == 0
        assert resident(process.holder)["VmRSS:"] > 500
        assert process.exec_faults > 0
        assert process.minor_faults > process.exec_faults


def test_a_program_is_held_before_its_first_own_instruction() -> None:
    with TracedGroup(StopAt.ENTRY) as group:
        (process,) = group.run(program("true")).processes
        entry = auxiliary_vector(process.holder)[Aux.ENTRY]
        assert ptrace.get_registers(process.holder).rip == entry


def test_stopping_at_the_entry_touches_no_page() -> None:
    """The anonymous pages are the same in number as in a run that was only traced: a
    breakpoint instruction would have copied a page of text."""
    counts = []
    for _ in range(2):
        with TracedGroup(StopAt.ENTRY) as group:
            (process,) = group.run(program("uname")).processes
            counts.append((resident(process.holder)["RssAnon:"], process.minor_faults))
            with open(f"/proc/{process.holder}/smaps") as file:
                text = file.read()
            for vma in text.split(" r-xp ")[1:]:
                assert "Anonymous:             0 kB" in vma
    assert counts[0] == counts[1]


def test_at_random_is_what_was_asked_and_giving_it_costs_no_fault() -> None:
    secret = bytes(range(16))
    pid, _ = launch(Launch("/usr/bin/true", ("true",), ENV))
    try:
        before = resident(pid)
        ptrace.write_memory(pid, auxiliary_vector(pid)[Aux.RANDOM], secret)
        assert resident(pid) == before
        assert ptrace.read_memory(pid, auxiliary_vector(pid)[Aux.RANDOM], 16) == secret
    finally:
        os.kill(pid, signal.SIGKILL)
        while ptrace.wait(pid).kind is not ptrace.StopKind.GONE:
            ptrace.resume(pid)


def test_all_addresses_are_the_same_in_every_run() -> None:
    def maps() -> list[str]:
        with TracedGroup() as group:
            (process,) = group.run(program("true")).processes
            with open(f"/proc/{process.holder}/maps") as file:
                return file.readlines()

    assert maps() == maps()


def test_programs_of_a_group_are_held_together() -> None:
    with TracedGroup() as group:
        group.run(program("true"))
        group.run(program("uname"))
        assert [resident(p.holder)["VmRSS:"] > 0 for p in group.processes] == [True, True]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("ls / | sort | tail -3", [((), 0), ((0,), 0), ((1,), 0), ((2,), 0)]),
        ("(exit 3); /usr/bin/true; exit 4", [((), 4 << 8), ((0,), 3 << 8), ((1,), 0)]),
        ("/usr/bin/true & exit 0", None),
        ("yes | head -1", [((), 0), ((0,), signal.SIGPIPE), ((1,), 0)]),
    ],
)
def test_a_tree_of_processes_is_held_whole(script: str, expected: object) -> None:
    with TracedGroup(timeout=20) as group:
        tree = group.run(program("bash", "-c", script))
        assert tree.lost == []
        if expected is not None:
            assert [process.key for process in tree.processes] == [key for key, _ in expected]  # type: ignore[attr-defined]
        assert all(resident(p.holder)["VmRSS:"] > 0 for p in tree.processes)


def test_a_ghost_leaves_map_counts_as_they_were() -> None:
    """The address space is held by two tasks, but its pages are mapped once."""
    with TracedGroup() as group:
        tree = group.run(program("dash", "-c", "/usr/bin/true; exit 0"))
        assert len(tree.processes) == 2
        shell = tree.processes[0]
        with open(f"/proc/{shell.holder}/smaps") as file:
            vmas = file.read().split("VmFlags:")
        (heap,) = [vma for vma in vmas if "[heap]" in vma]
        assert "Shared_Dirty:          0 kB" in heap
        assert "Private_Dirty:         0 kB" not in heap


def test_threads_end_and_the_process_is_held() -> None:
    code = (
        "import threading, time;"
        "threading.Thread(target=time.sleep, args=(9,), daemon=True).start();"
        "t = threading.Thread(target=print); t.start(); t.join()"
    )
    assert run("python3", "-c", code) == [((), 0)]


def test_a_thread_may_be_gone_without_its_exit_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    # exit_group wakes a thread from that stop; on a busy machine its end is reported last. Our own
    # pid represents the process, since only its files are read.
    monkeypatch.setattr(ptrace, "event_message", lambda tid: 3 << 8)
    group, pid = TracedGroup(), os.getpid()
    process = Process(pid, (), program("true"), threads={pid, 2, 3})
    tree = Tree(process)
    process.exiting = {pid, 2}
    group._on_gone(tree, process, ptrace.Stop(3, ptrace.StopKind.GONE))
    assert tree.processes == [process]
    assert (process.holder, process.wait_status) == (pid, 3 << 8)


def test_a_signal_that_kills_is_held_too() -> None:
    with TracedGroup() as group:
        (process,) = group.run(program("dash", "-c", "kill -SEGV $$")).processes
        assert process.wait_status == signal.SIGSEGV


def test_a_process_that_cannot_be_held_is_named() -> None:
    with TracedGroup() as group:
        tree: Tree = group.run(program("bash", "-c", "kill -9 $BASHPID & wait; exit 0"))
        assert [key for key, _ in tree.lost] == [(0,)]


def test_a_program_that_does_not_end_is_killed_and_named(
    left_behind: Callable[[], set[tuple[int, str]]],
) -> None:
    with TracedGroup(timeout=0.3) as group:
        kept = group.run(program("true")).processes[0]
        with pytest.raises(SamepageError, match="did not end within"):
            group.run(program("bash", "-c", "sleep 100 & sleep 100"))
        assert resident(kept.holder)["VmRSS:"] > 0
    assert left_behind() == set()


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [("/no/such", 127, "No such file"), ("/etc", 126, "Permission denied")],
)
def test_what_cannot_be_executed_is_an_error_of_one_line(
    path: str, status: int, text: str, left_behind: Callable[[], set[tuple[int, str]]]
) -> None:
    with TracedGroup() as group, pytest.raises(SamepageError, match=text) as caught:
        group.run(Launch(path, ("x",), ENV))
    assert caught.value.exit_status == status
    assert left_behind() == set()


def test_a_child_that_was_never_reported_is_ended() -> None:
    """Its parent is killed between the fork and our hearing of it."""
    for delay in (0.0, 0.001, 0.002, 0.004, 0.008):
        with TracedGroup(timeout=0.05 + delay) as group, pytest.raises(SamepageError):
            group.run(program("bash", "-c", "while :; do (sleep 9 &) ; done"))
    assert not tracees()


def test_nothing_is_left_after_an_exception(
    left_behind: Callable[[], set[tuple[int, str]]],
) -> None:
    def fail() -> None:
        with TracedGroup() as group:
            group.run(program("bash", "-c", "ls / | sort; sleep 0.01 & exit 0"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert left_behind() == set()


def _victim(script: str) -> tuple["subprocess.Popen[str]", Sequence[int]]:
    """A process that holds programs, and the pids that it holds."""
    code = textwrap.dedent(
        f"""
        import sys, time
        from samepage.trace.launch import Launch
        from samepage.trace.traced import TracedGroup
        with TracedGroup() as group:
            for script in ("exit 0", {script!r}):
                group.run(Launch("/usr/bin/bash", ("bash", "-c", script), {ENV!r}))
            print(*[p.holder for p in group.processes], flush=True)
            time.sleep(100)
        """
    )
    victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    return victim, [int(word) for word in victim.stdout.readline().split()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_tracer_is_killed(how: signal.Signals) -> None:
    victim, held = _victim("ls / | sort | tail -1; exit 0")
    assert len(held) == 5
    victim.send_signal(how)
    victim.wait(timeout=20)
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in held) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in held if _alive(pid)]
    if victim.stdout:
        victim.stdout.close()


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_groups_in_two_processes_do_not_disturb_each_other() -> None:
    one, held_one = _victim("exit 0")
    other, held_other = _victim("exit 0")
    one.kill()
    one.wait()
    assert all(_alive(pid) for pid in held_other)
    other.kill()
    other.wait()
    for victim in (one, other):
        assert victim.stdout is not None
        victim.stdout.close()
    assert not set(held_one) & set(held_other)
