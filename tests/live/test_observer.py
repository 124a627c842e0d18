"""What an observer must know of itself, and of processes with one address space."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live_processes import group_members, needs_frames, read_smaps, wait_until_stopped

from samepage.analysis.same_memory import same_memory
from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.report.text import notes

pytestmark = needs_frames


TOUCHED = """
static const char data[64 * 4096] = {1};
__attribute__((constructor)) static void touch(void)
{
    for (int page = 0; page < 64; page++)
        (void)*(volatile const char *)&data[page * 4096];
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_samepage_leaves_itself_out_of_the_map_counts(tmp_path: Path) -> None:
    """A library that nothing maps but one program, and samepage when it looks."""
    (tmp_path / "touched.c").write_text(TOUCHED)
    library = tmp_path / "touched.so"
    subprocess.run(["cc", "-shared", "-o", library, tmp_path / "touched.c"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    command = [sys.executable, "-c", "from samepage.cli.main import main; main()", "live"]
    with subprocess.Popen(["sleep", "1000"], env=environment) as process:
        try:
            wait_for(lambda: "touched.so" in Path(f"/proc/{process.pid}/maps").read_text())
            time.sleep(0.3)  # until its constructor has run
            done = subprocess.run(
                [*command, str(process.pid), "-f", "json"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            process.kill()
    files = json.loads(done.stdout)["files"]
    (file,) = (each for each in files if each["path"] == str(library))
    assert file["frames"] >= 64
    assert file["frames_by_mapcount"] == {"1": file["frames"]}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


CLONED = """
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int stop(void *unused) { raise(SIGSTOP); return 0; }

int main(void)
{
    char *heap = malloc(1 << 20), *stack = malloc(1 << 16);
    memset(heap, 1, 1 << 20);
    printf("%d\\n", clone(stop, stack + (1 << 16), CLONE_VM | SIGCHLD, NULL));
    fflush(stdout);
    raise(SIGSTOP);
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_processes_with_one_address_space_are_named(tmp_path: Path) -> None:
    (tmp_path / "cloned.c").write_text(CLONED)
    program = tmp_path / "cloned"
    subprocess.run(["cc", "-o", program, tmp_path / "cloned.c"], check=True)
    with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            for pid in (process.pid, child):
                wait_until_stopped(pid)
            sharing = Sharing(capture([process.pid, child]))
            alone = Sharing(capture([child]))
            kernel = sum(vma["Private_Dirty"] for vma in read_smaps(child).values())
        finally:
            os.kill(child, 9)
            process.kill()
    assert same_memory(sharing) == [(process.pid, child)]
    (note,) = (line for line in notes(sharing) if "one address space" in line)
    assert f"{process.pid}, {child}" in note
    # Two processes share each page here, and smaps counts it for each.
    one, two = sharing.processes
    assert one.usage.private_dirty == two.usage.private_dirty == 0
    assert alone.processes[0].usage.private_dirty * 4 == kernel > 1024
    assert not same_memory(alone)


def test_a_forked_child_has_an_address_space_of_its_own(
    stopped_program: Callable[[str], int],
) -> None:
    pid = stopped_program(
        "import os, time\nif os.fork() == 0: time.sleep(1000)\n"
        "time.sleep(0.2)\nprint('ready', flush=True)\ntime.sleep(1000)"
    )
    assert same_memory(Sharing(capture(group_members(pid)))) == []
