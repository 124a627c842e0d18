"""Programs that never end, or that want more memory than there is: how the machine ends them.

Each ends in one line and the exit status that a shell user knows: 124 as `timeout` has it,
130 for Ctrl-C, 137 for the OOM killer. Nothing of Python is to be seen.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from samepage import Machine
from samepage.errors import SamepageError
from tests.kernel.programs import ENVIRONMENT

PYTHON = "/usr/bin/python3"
SPIN = """
__asm__(".globl _start\\n_start: jmp _start");
"""
PURE_LOOP = ("perl", "-e", "1 while 1")
CALLING_LOOP = ("perl", "-e", "getppid while 1")
OWN_PIPE = ("perl", "-e", "pipe(R, W); sysread(R, $x, 1)")


@pytest.fixture(scope="module")
def spin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program of one instruction that jumps to itself."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    target = tmp_path_factory.mktemp("spin") / "spin"
    command = ["gcc", "-static", "-nostdlib", "-x", "c", "-", "-o", str(target)]
    subprocess.run(command, input=SPIN.encode(), check=True)
    return str(target)


def samepage(*arguments: str) -> list[str]:
    """The command line of a real `samepage run`."""
    return [sys.executable, "-m", "samepage", "run", "-q", "--ram", "512M", *arguments]


def one_line(stderr: bytes) -> str:
    """The only line that the command wrote to stderr."""
    lines = stderr.decode().splitlines()
    assert len(lines) == 1, stderr.decode()
    assert lines[0].startswith("samepage: ")
    return lines[0]


@pytest.mark.parametrize("program", [PURE_LOOP, CALLING_LOOP], ids=["computing", "calling"])
def test_an_endless_loop_ends_at_the_time_limit(program: Sequence[str]) -> None:
    done = subprocess.run(
        samepage("--timeout", "1", *program), capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 124
    assert one_line(done.stderr) == "samepage: perl: stopped at the time limit of 1 s"


@pytest.mark.parametrize("program", [("cat",), ("yes",)], ids=["reading", "writing"])
def test_a_program_that_waits_for_the_host_ends_at_the_time_limit(program: Sequence[str]) -> None:
    with subprocess.Popen(
        samepage("--timeout", "0.5", *program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        try:
            assert process.wait(timeout=20) == 124
        finally:
            process.kill()
        line = one_line(process.stderr.read())
    assert line == f"samepage: {program[0]}: stopped at the time limit of 0.5 s"


def test_one_instruction_that_jumps_to_itself_ends_at_the_time_limit(spin: str) -> None:
    started = time.monotonic()
    machine = Machine("16M", timeout=0.3)
    with pytest.raises(SamepageError, match=r"stopped at the time limit of 0\.3 s") as error:
        machine.run(machine.spawn([spin]))
    assert error.value.exit_status == 124
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("program", [PURE_LOOP, CALLING_LOOP], ids=["computing", "calling"])
def test_an_endless_loop_ends_at_the_instruction_limit(program: Sequence[str]) -> None:
    done = subprocess.run(
        samepage("--max-instructions", "3000000", *program),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 124
    assert one_line(done.stderr) == "samepage: perl: stopped at the limit of 3,000,000 instructions"


@pytest.mark.parametrize("limit", [1, 2, 1000, 100_003])
def test_the_instruction_limit_is_exact_for_a_loop_of_one_instruction(
    spin: str, limit: int
) -> None:
    machine = Machine("16M", max_instructions=limit, timeout=60)
    with pytest.raises(SamepageError, match=f"the limit of {limit:,} instructions"):
        machine.run(machine.spawn([spin]))


def test_a_program_that_stays_below_the_limits_is_not_touched() -> None:
    machine = Machine("64M", max_instructions=50_000_000, timeout=60)
    guest = machine.spawn(["echo", "x"])
    assert machine.run(guest) == 0
    assert guest.stdout == b"x\n"


def test_children_count_too() -> None:
    machine = Machine("128M", timeout=1)
    with pytest.raises(SamepageError, match="the time limit of 1 s"):
        machine.run(machine.spawn(["bash", "-c", "(while :; do :; done) & wait"]))


def test_a_fork_bomb_ends_at_the_time_limit() -> None:
    machine = Machine("64M", timeout=3)
    with open(os.devnull, "wb") as null:
        guest = machine.spawn(
            ["bash", "-c", "f() { f | f & }; f; wait"], env=ENVIRONMENT, stderr=null.fileno()
        )
        try:
            machine.run(guest)
        except SamepageError as error:
            status = error.exit_status
        else:
            status = guest.exit_code or 0
    # Or it got EAGAIN or ENOMEM, or killed.
    assert status in (124, 0, 1, 254, 137)


def test_a_program_that_waits_for_itself_is_a_deadlock() -> None:
    done = subprocess.run(samepage(*OWN_PIPE), capture_output=True, check=False, timeout=30)
    assert done.returncode == 124
    line = one_line(done.stderr)
    assert line.startswith("samepage: perl: nothing can continue: perl (pid ")
    assert line.endswith("wait for events that cannot happen")


READY = "$| = 1; print qq(ready\\n); "
INTERRUPTED = {
    "in a loop without calls": ("perl", "-e", READY + "1 while 1"),
    "in a loop of calls": ("perl", "-e", READY + "getppid while 1"),
    "asleep again and again": ("perl", "-e", READY + "select(undef, undef, undef, 0.01) while 1"),
    "reading its input": ("perl", "-e", READY + "sysread(STDIN, $x, 1)"),
    "reading a pipe of its child": ("bash", "-c", "echo ready; cat | cat"),
    "writing to a full pipe": ("perl", "-e", READY + "print 'x' x 4096 while 1"),
    "forking": ("bash", "-c", "echo ready; while :; do (:); done"),
    "starting programs": ("bash", "-c", "echo ready; while :; do /bin/true; done"),
    "ignoring the signal": ("perl", "-e", "$SIG{INT} = 'IGNORE'; " + READY + "1 while 1"),
}


@pytest.mark.parametrize("delay", [0.0, 0.1])
@pytest.mark.parametrize("program", INTERRUPTED.values(), ids=INTERRUPTED)
def test_ctrl_c_ends_the_machine_at_once(program: Sequence[str], delay: float) -> None:
    with subprocess.Popen(
        samepage(*program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.read(6) == b"ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            sent = time.monotonic()
            process.wait(timeout=20)
            took = time.monotonic() - sent
        finally:
            process.kill()
        assert (process.returncode, process.stderr.read()) == (130, b"")
        assert took < 5


def test_a_machine_that_was_interrupted_goes_on_where_it_was() -> None:
    machine = Machine("512M", timeout=60)
    source = "$x += getppid() for 1 .. 30000; print $x"
    guest = machine.spawn(["perl", "-e", source], env={"LC_ALL": "C"})
    interrupted = 0
    while guest.exit_code is None:
        signal.setitimer(signal.ITIMER_REAL, 0.07)
        previous = signal.signal(signal.SIGALRM, _pass_on)
        try:
            machine.run(guest)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
    assert interrupted
    assert (guest.exit_code, guest.stdout) == (0, b"0")


def _pass_on(_number: int, _frame: object) -> None:
    signal.raise_signal(signal.SIGINT)


FORKS = 'a=$(echo one); b=$(echo two | cat); (exit 3); echo "$a $b $?"'
PROGRAMS = {
    "true": (["true"], b""),
    "bash": (["bash", "-c", FORKS], b"one two 3\n"),
    "python": ([PYTHON, "-S", "-c", "print(sum(range(1000)))"], b"499500\n"),
}
SIZES = {
    "true": ("1M", "1100k", "1200k", "1300k", "1500k", "2M", "3M", "4M"),
    "bash": ("1M", "1500k", "2M", "2500k", "3M", "4M", "6M", "8M", "16M"),
    "python": ("8M", "9M", "10M", "11M", "12M", "16M", "32M"),
}


@pytest.mark.parametrize(("name", "ram"), [(name, ram) for name in SIZES for ram in SIZES[name]])
def test_too_little_ram_is_the_programs_failure_never_ours(name: str, ram: str) -> None:
    argv, expected = PROGRAMS[name]
    error: SamepageError | None
    try:
        machine = Machine(ram, timeout=60)
        guest = machine.spawn(argv, env=ENVIRONMENT)
        code = machine.run(guest)
    except SamepageError as failure:
        error = failure
    else:
        error = None
    if error is not None:
        assert error.exit_status in (126, 2, 124), error
        assert "\n" not in error.message
        return
    killed = [line for line in machine.log if line.startswith("Out of memory: Killed process")]
    if code == 0:
        assert guest.stdout == expected or killed
    elif code == 137:
        assert killed
    else:
        # The program got ENOMEM, and reported it in its own way.
        assert code in (1, 2, 126, 127, 254, 255), (code, guest.stdout)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_the_right_result_where_there_is_enough_ram(name: str) -> None:
    argv, expected = PROGRAMS[name]
    machine = Machine("32M", timeout=60)
    guest = machine.spawn(argv, env=ENVIRONMENT)
    assert (machine.run(guest), guest.stdout) == (0, expected)


def test_the_oom_killer_names_the_killed_process() -> None:
    source = "x = []\nwhile True: x.append(bytes(range(256)) * 4096)"
    done = subprocess.run(
        [sys.executable, "-m", "samepage", "run", "-q", "--ram", "32M", PYTHON, "-S", "-c", source],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 137
    line = one_line(done.stderr)
    assert line.startswith("samepage: kernel: Out of memory: Killed process ")
    assert "(python3" in line


def test_writing_without_end_ends_with_the_memory_of_the_machine(tmp_path: Path) -> None:
    with open(os.devnull, "wb") as null:
        machine = Machine("16M", timeout=60)
        command = "cat /dev/zero > file; echo $?"
        guest = machine.spawn(
            ["bash", "-c", command], env=ENVIRONMENT, cwd=str(tmp_path), stderr=null.fileno()
        )
        code = machine.run(guest)
    assert code == 137 or guest.stdout.strip() in (b"1", b"137")
    assert not list(tmp_path.iterdir())
