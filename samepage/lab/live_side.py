"""The live kernel's side: real processes, held by ptrace.

Everything is arranged so that a second run gives the same pages: each program is started as
`samepage.trace.launch` lays down, and before the run that counts, one that does not finds
every file that the programs map, so that the page cache is in a known state for them.
"""

import contextlib
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from samepage.errors import SamepageError
from samepage.lab.environment import CWD, find_program
from samepage.lab.faults import with_faults
from samepage.lab.host_state import host_state, prepare_page_cache, splits_updates
from samepage.lab.live_held import LiveHeld
from samepage.lab.observation import Observation
from samepage.lab.scenario import HostState, Scenario, replace
from samepage.live.cached_frames import cached_bytes, cached_frames
from samepage.live.capture import capture
from samepage.live.one_process import read_vmas
from samepage.live.smaps import read_smaps
from samepage.snapshot.columns import Snapshot
from samepage.trace.launch import Launch
from samepage.trace.traced import Process, TracedGroup


class LiveSide:
    """A `HoldingSide` of processes of the running system; leaving it kills them all."""

    scenario: Scenario

    def __init__(self) -> None:
        self._group = TracedGroup()
        self._host = HostState()
        self._notes: list[str] = []

    def __enter__(self) -> Self:
        self._group.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._group.__exit__(kind, error, traceback)

    def prepare(self, scenario: Scenario) -> None:
        """As `Side.prepare`: run the programs once, and set the page cache up for them."""
        self.scenario = scenario
        self._group.stop_at = scenario.stop_at
        if scenario.timeout is not None:
            self._group.timeout = scenario.timeout
        for argv in scenario.commands:
            self.run(argv)
        files = self._mapped_files()
        self._group.release()
        cold = files if scenario.cold else list(scenario.cold_files)
        kept = prepare_page_cache(files, cold)
        self._notes = [f"{path} could not be evicted" for path in kept]
        self._host = host_state(files, cold)

    def _mapped_files(self) -> list[str]:
        """Every file that the held programs map."""
        holders = (process.holder for process in self._group.processes)
        names = {vma.name for pid in holders for vma in read_vmas(pid)}
        return sorted(name for name in names if name.startswith("/"))

    def run(self, argv: Sequence[str]) -> int | None:
        """As `Side.run`."""
        tree = self._group.run(self._launch(argv))
        return _exit_status(tree.root)

    def start(self, argv: Sequence[str]) -> LiveHeld:
        """As `HoldingSide.start`."""
        return LiveHeld(self._group, self._group.start(self._launch(argv)))

    def _launch(self, argv: Sequence[str]) -> Launch:
        cwd = self.scenario.cwd
        path = find_program(argv[0])
        return Launch(path, tuple(argv), self.scenario.env, cwd=CWD if cwd is None else cwd)

    def observe(self) -> Observation:
        """As `Side.observe`."""
        held = {
            (number, *process.key): process
            for number, tree in enumerate(self._group.trees)
            for process in tree.processes
        }
        snapshot = self.snapshot()
        if not len(snapshot.pages):
            raise SamepageError("the programs show no pages in /proc/PID/pagemap")
        faults = {p.holder: (p.minor_faults, p.major_faults) for p in held.values()}
        observation = Observation(
            with_faults(snapshot, faults),
            {key: process.holder for key, process in held.items()},
            host=replace(
                self._host,
                xstate_size=self._group.xstate_size,
                splits_updates=splits_updates(),
            ),
            notes=self._notes,
        )
        for process in held.values():
            with contextlib.suppress(OSError):
                observation.smaps[process.holder] = read_smaps(process.holder)
        for number, tree in enumerate(self._group.trees):
            observation.lost.update({(number, *key): reason for key, reason in tree.lost})
        return observation

    def cached(self, path: str) -> dict[int, int]:
        """As `HoldingSide.cached`. Raises `OSError`."""
        return cached_frames(path)

    def cached_bytes(self, path: str, file_page: int) -> bytes:
        """As `HoldingSide.cached_bytes`."""
        return cached_bytes(path, file_page)

    def snapshot(self) -> Snapshot:
        """As `HoldingSide.snapshot`."""
        return capture([process.holder for process in self._group.processes])


def _exit_status(process: Process) -> int | None:
    """As a shell has it: 128 + signal if one killed it."""
    if process.wait_status is None:
        return None
    status = os.waitstatus_to_exitcode(process.wait_status)
    return 128 - status if status < 0 else status
