"""The kernel's side: run a group of programs live, and take the snapshot of them.

Everything is arranged so that a second run would give the same pages: the environment is
fixed, and before the run that counts, one that does not brings every mapped file into the
page cache.
"""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from samepage.errors import SamepageError
from samepage.live.capture import capture
from samepage.live.folios import Folios, large_folios
from samepage.live.residency import evict, read_through, resident_pages
from samepage.live.smaps import read_smaps
from samepage.snapshot.tables import Snapshot
from samepage.trace.launch import Launch
from samepage.trace.traced import StopAt, TracedGroup
from samepage.verify.environment import CWD, find_program
from samepage.verify.faults import with_faults
from samepage.verify.keys import Key

T = TypeVar("T")


@dataclass(slots=True)
class Observation:
    """What the live kernel had in memory for a group.

    `pids` gives the pid in `snapshot` of each process by its key; `lost` those that could
    not be held, with the reason; `smaps` the kernel's own sums by pid. By (device, inode) of
    the mapped files: `folios` are their large folios, and if `cold` was asked for,
    `residency` says which pages were in the page cache nevertheless; `kept_in_cache` names
    these files. `xstate_size` is what the CPU saves in a signal frame.
    """

    snapshot: Snapshot
    pids: dict[Key, int] = field(default_factory=dict)
    lost: dict[Key, str] = field(default_factory=dict)
    smaps: dict[int, dict[int, dict[bytes, int]]] = field(default_factory=dict)
    folios: dict[tuple[int, int], Folios] = field(default_factory=dict)
    residency: dict[tuple[int, int], npt.NDArray[np.bool_]] = field(default_factory=dict)
    kept_in_cache: list[str] = field(default_factory=list)
    xstate_size: int = 0


def observe(
    commands: Sequence[Sequence[str]],
    env: Mapping[str, str],
    *,
    stop_at: StopAt = StopAt.EXIT,
    timeout: float = 30.0,
    cold: bool = False,
) -> Observation:
    """Run the commands together on the live kernel, and return what they have in memory.

    Raises `SamepageError` if one cannot be run, traced or captured.
    """
    launches = [Launch(find_program(argv[0]), tuple(argv), env, cwd=CWD) for argv in commands]
    files = _mapped_files(launches, stop_at, timeout)
    kept: list[str] = []
    residency = {}
    if cold:
        kept = evict(files)
        residency = _by_inode(files, resident_pages)
    else:
        read_through(files)
    with TracedGroup(stop_at, timeout) as group:
        for launch in launches:
            group.run(launch)
        observation = _look(group)
    observation.kept_in_cache = kept
    observation.residency = residency
    if not cold:
        observation.folios = _by_inode(files, large_folios)
    return observation


def _by_inode(files: Sequence[str], read: Callable[[str], T]) -> dict[tuple[int, int], T]:
    """What `read` says of each file, by (device, inode); files that it cannot read are left
    out."""
    found = {}
    for path in files:
        with contextlib.suppress(OSError):
            stat = os.stat(path)
            found[stat.st_dev, stat.st_ino] = read(path)
    return found


def _mapped_files(launches: Sequence[Launch], stop_at: StopAt, timeout: float) -> list[str]:
    """Every file that the programs map, found by running them once."""
    paths: set[str] = set()
    with TracedGroup(stop_at, timeout) as group:
        for launch in launches:
            for process in group.run(launch).processes:
                with open(f"/proc/{process.holder}/maps", errors="surrogateescape") as file:
                    paths.update(re.findall(r" (/.*)$", file.read(), re.MULTILINE))
    return sorted(paths)


def _look(group: TracedGroup) -> Observation:
    held = {
        (number, *process.key): process
        for number, tree in enumerate(group.trees)
        for process in tree.processes
    }
    snapshot = capture([process.holder for process in held.values()])
    if snapshot.pages.num_rows == 0:
        raise SamepageError("the programs show no pages in /proc/PID/pagemap")
    faults = {p.holder: (p.minor_faults, p.major_faults) for p in held.values()}
    observation = Observation(with_faults(snapshot, faults), xstate_size=group.xstate_size)
    for key, process in held.items():
        observation.pids[key] = process.holder
        with contextlib.suppress(OSError):
            observation.smaps[process.holder] = read_smaps(process.holder)
    for number, tree in enumerate(group.trees):
        observation.lost.update({(number, *key): reason for key, reason in tree.lost})
    return observation
