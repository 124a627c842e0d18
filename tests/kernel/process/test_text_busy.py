"""A program that runs cannot be written to, nor one that is open for writing be run."""

import shutil
from pathlib import Path

from samepage import Machine
from tests.kernel.programs import run_natively, run_on_model

SOURCE = """
import errno, os, signal, sys
program = sys.argv[1]
def attempt(what, call):
    try:
        result = call()
        print(what, "done")
        return result
    except OSError as error:
        print(what, errno.errorcode[error.errno])
def start():
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.set_inheritable(writer, True)
        os.dup2(reader, 0)
        os.close(writer)
        os.execv(program, [program])
    os.close(reader)
    return pid, writer
def wait_for(pid):
    while os.readlink(f"/proc/{pid}/exe") != os.path.realpath(program):
        os.sched_yield()
attempt("before", lambda: os.close(os.open(program, os.O_RDWR)))
pid, writer = start()
wait_for(pid)
attempt("running", lambda: os.open(program, os.O_WRONLY))
attempt("running, truncate", lambda: os.truncate(program, 1))
attempt("running, read", lambda: os.close(os.open(program, os.O_RDONLY)))
attempt("running, chmod", lambda: os.chmod(program, 0o755))
os.close(writer)
os.waitpid(pid, 0)
fd = attempt("ended", lambda: os.open(program, os.O_RDWR))
attempt("open for writing", lambda: os.execv(program, [program]))
os.close(fd)
pid, writer = start()
wait_for(pid)
os.unlink(program)
attempt("new file", lambda: os.close(os.open(program, os.O_WRONLY | os.O_CREAT)))
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""


def test_a_running_program_is_busy_as_natively(tmp_path: Path) -> None:
    program = tmp_path / "program"
    argv = ["/usr/bin/python3", "-S", "-c", SOURCE, str(program)]
    shutil.copy2("/bin/cat", program)
    on_model = run_on_model(argv)
    assert program.exists()
    native = run_natively(argv)
    assert native.exit_code == 0
    assert on_model == native
    assert b"running ETXTBSY" in native.stdout


def test_a_program_that_has_ended_may_be_written_while_its_memory_is_kept(tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy2("/bin/true", program)
    machine = Machine("64M", timeout=20)
    assert machine.run(machine.spawn([str(program)])) == 0
    script = f"echo more >> {program}"
    assert machine.run(machine.spawn(["bash", "-c", script])) == 0
    assert machine.guests[0].mm.rss_pages
