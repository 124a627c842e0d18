"""Which processes a command means, found without reading any memory.

`samepage.groups.selection` has the rules. Here is read what they ask for, and no more: a pid
needs no other process, a name no control group.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from samepage.errors import SamepageError
from samepage.groups.control_group import find_container
from samepage.groups.selection import Selection, choose, user_number
from samepage.live.container_names import ContainerNames
from samepage.live.process_files import parse_cgroup, parse_stat
from samepage.live.procfs import list_pids, read_file


class Candidate(NamedTuple):
    """What is read of a process to choose it; what is not asked for is empty."""

    pid: int
    ppid: int = 0
    argv: tuple[str, ...] = ()
    comm: str = ""
    exe: str = ""
    uid: int = -1
    cgroup: str = ""
    container: str = ""
    container_name: str = ""
    pod: str = ""


def find_processes(selection: Selection, proc: str = "/proc") -> list[int]:
    """Return the pids of the processes that are asked for, ascending.

    This process itself is found by its pid only. Raises `SamepageError` if there is no such
    process.
    """
    targets = selection.values("target")
    if all(map(_is_pid, targets)) and len(targets) == len(selection.wanted):
        return sorted({_existing(target, proc) for target in targets})
    import shutil  # which takes as long as all of the imports of this command's parser

    programs = {
        name: _inode(shutil.which(name) or "")
        for name in (*targets, *selection.values("tree"))
        if "/" not in name and not _is_pid(name)
    }

    def runs(name: str, pid: int) -> bool:
        program = programs.get(name)
        return program is not None and program == _inode(f"{proc}/{pid}/exe")

    candidates = list(_candidates(selection, proc))
    return choose(selection, candidates, user_number=user_number, runs=runs)


def _candidates(selection: Selection, proc: str) -> Iterator[Candidate]:
    named = not all(map(_is_pid, (*selection.values("target"), *selection.values("tree"))))
    grouped = selection.asks("cgroup", "unit", "pod", "container")
    names = ContainerNames(proc)
    ours = os.getpid()
    for pid in list_pids(proc):
        if pid == ours and str(pid) not in selection.values("target"):
            continue
        base = f"{proc}/{pid}/"
        found = Candidate(pid)
        try:
            if named:
                found = _with_names(found, base)
            if selection.asks("tree"):
                found = found._replace(ppid=parse_stat(read_file(f"{base}stat"))[1])
            if selection.asks("user"):
                found = found._replace(uid=os.stat(base).st_uid)
            if grouped:
                cgroup = parse_cgroup(read_file(f"{base}cgroup"))
                found = found._replace(cgroup=cgroup, container=find_container(cgroup))
                if selection.asks("pod", "container"):
                    name, pod = names.of(cgroup)
                    found = found._replace(container_name=name, pod=pod)
        except OSError:  # it has exited
            continue
        yield found


def _with_names(found: Candidate, base: str) -> Candidate:
    comm, title, exe = "", "", ""
    try:
        comm = read_file(f"{base}comm").decode("utf-8", "surrogateescape").removesuffix("\n")
        title = read_file(f"{base}cmdline").decode("utf-8", "surrogateescape").partition("\0")[0]
        exe = os.readlink(f"{base}exe")
    except OSError:  # a kernel thread has no executable
        pass
    return found._replace(comm=comm, argv=(title,) if title else (), exe=exe)


def _existing(pid: str, proc: str) -> int:
    if not os.path.exists(f"{proc}/{pid}/stat"):
        raise SamepageError(f"there is no process {pid}")
    return int(pid)


def _is_pid(target: str) -> bool:
    return target.isascii() and target.isdigit()


def _inode(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file, None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
