"""A program that was compiled a moment ago, and that maps what has no name to compare by."""

import shutil
import subprocess
from pathlib import Path

import pytest

from samepage.lab.environment import ENVIRONMENT
from samepage.verify.group import Options, Outcome, verify_group
from samepage.verify.lines import record_lines
from samepage.verify.record import to_record
from tests.verify.test_subset import WHY_NOT

SOURCE = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

/* Two segments have one name, and fault-around does not reach them. */
static char *segment(void) {
    int id = shmget(IPC_PRIVATE, 64 << 12, IPC_CREAT | 0600);
    char *p = shmat(id, 0, 0);
    shmctl(id, IPC_RMID, 0);
    return p;
}

int main(void) {
    char name[] = "/tmp/samepage-XXXXXX", *p = segment(), *q = segment();
    int fd = mkstemp(name), memory = memfd_create("m", 0);
    unlink(name);
    ftruncate(fd, 1 << 12);
    ftruncate(memory, 1 << 20);
    char *removed = mmap(0, 1 << 12, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!fork()) {
        for (int i = 0; i < 64; i += 3)
            p[i << 12] = q[i << 11] = removed[i] = 1;
        _exit(0);
    }
    wait(0);
    write(memory, p, 40 << 12);
    return removed[3] + q[5 << 12] - 1;
}
"""


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_fresh_program_with_nameless_files_agrees(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "fresh.c").write_text(SOURCE)
    program = str(tmp_path / "fresh")
    subprocess.run(["gcc", "-w", "-O1", tmp_path / "fresh.c", "-o", program], check=True)
    verdict = verify_group([[program]], Options(ENVIRONMENT, timeout=60, attempts=3))
    if verdict.outcome is not Outcome.AGREES:
        pytest.fail("\n".join(record_lines(to_record(verdict), shown=3)), pytrace=False)


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_reader_of_its_own_smaps_agrees() -> None:
    verdict = verify_group([["cat", "/proc/self/smaps"]], Options(ENVIRONMENT, timeout=60))
    assert verdict.outcome is Outcome.AGREES
