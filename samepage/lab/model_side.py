"""The model's side: a scenario on a machine of ours.

The machine gets what decides the pages of a live run: the same paths, arguments, environment
and directory, standard streams on /dev/null, and the page cache that the live run found.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from samepage.kernel.config import TIME_SLICE
from samepage.kernel.mm.folios import FolioMap
from samepage.kernel.mm.page_cache import VM_READAHEAD_PAGES
from samepage.lab.scenario import HostState, Scenario
from samepage.machine import Guest, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from samepage.lab.family import Family
    from samepage.lab.model_held import ModelHeld
    from samepage.lab.observation import Observation
    from samepage.lab.scenario import Resident
    from samepage.snapshot.columns import Snapshot


class ModelSide:
    """A `HoldingSide` whose kernel is the model.

    `own_streams` gives programs this process's standard streams instead of /dev/null.
    `whole_trees` keeps what the programs fork as well, each process as it was at its end;
    without it, only the programs themselves stay.
    """

    machine: Machine
    """The scenario's machine, once it is prepared."""
    scenario: Scenario

    def __init__(self, *, own_streams: bool = False, whole_trees: bool = True) -> None:
        self._own_streams = own_streams
        self._whole_trees = whole_trees
        self._family: Family | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """A machine is ordinary memory: it goes with the side."""

    def prepare(self, scenario: Scenario) -> None:
        """As `Side.prepare`: boot the machine."""
        options = scenario.machine
        self.scenario = scenario
        self.machine = Machine(
            options.ram,
            root=scenario.host.root or options.root,
            cold=options.cold,
            seed=options.seed,
            timeline=options.timeline,
            timeout=scenario.timeout,
            max_instructions=options.max_instructions,
            # The live side's tracer stops each process of a tree at every system call, where
            # others continue.
            time_slice=1 if self._whole_trees else TIME_SLICE,
            readahead=scenario.host.readahead or VM_READAHEAD_PAGES,
            xstate_size=scenario.host.xstate_size,
            engine=options.engine,
            host=scenario.host.kernel,
            kernel=options.kernel,
            splits_updates=scenario.host.splits_updates,
        )
        _take_over(self.machine, scenario.host)
        if self._whole_trees:
            from samepage.lab.family import Family

            self._family = Family(self.machine)

    def run(self, argv: Sequence[str]) -> int | None:
        """As `Side.run`."""
        guest = self.spawn(argv)
        status = self.machine.run(guest, self.scenario.stop_at)
        if self._family is not None:
            self._family.finish(guest)
        return status

    def spawn(self, argv: Sequence[str]) -> Guest:
        """A program of the scenario, before its first instruction. Raises `SamepageError`."""
        scenario = self.scenario
        ours: dict[str, int] = {"stdin": 0, "stdout": 1, "stderr": 2}
        guest = self.machine.spawn(
            argv,
            env=scenario.env,
            cwd=scenario.cwd,
            loader=scenario.machine.loader,
            lazy=scenario.machine.lazy,
            user=scenario.machine.user,
            **(ours if self._own_streams else {}),
        )
        if not self._own_streams:
            _use_null(guest)
        return guest

    def observe(self) -> Observation:
        """As `Side.observe`."""
        from samepage.lab.observation import Observation

        snapshot = self.snapshot()
        if self._family is not None:
            snapshot, pids = self._family.count(snapshot)
        else:
            pids = {(number,): guest.pid for number, guest in enumerate(self.machine.guests)}
        missing = ", ".join(sorted(self.machine.unimplemented_syscalls))
        notes = [f"the model has no {missing}"] if missing else []
        return Observation(snapshot, pids, host=self.scenario.host, notes=notes)

    def start(self, argv: Sequence[str]) -> ModelHeld:
        """As `HoldingSide.start`."""
        from samepage.lab.model_held import ModelHeld

        return ModelHeld(self.spawn(argv))

    def cached(self, path: str) -> dict[int, int]:
        """As `HoldingSide.cached`."""
        return self.machine.page_cache(path)

    def cached_bytes(self, path: str, file_page: int) -> bytes:
        """As `HoldingSide.cached_bytes`."""
        return self.machine.frame(self.cached(path)[file_page]).data

    def snapshot(self) -> Snapshot:
        """As `HoldingSide.snapshot`."""
        return self.machine.snapshot()


def _take_over(machine: Machine, host: HostState) -> None:
    """Give a machine the state of a host, as far as a host was looked at."""
    kernel = machine.kernel
    for path, pages in host.resident.items():
        with contextlib.suppress(OSError):
            kernel.cache.residency[_identity(machine, path)] = _is_in(pages)
    for path, folios in host.folios.items():
        with contextlib.suppress(OSError):
            kernel.cache.folios[_identity(machine, path)] = FolioMap(folios)


def _identity(machine: Machine, path: str) -> tuple[int, int]:
    """Device and inode of a guest's file; it may be gone since. Raises `OSError`."""
    status = os.stat(machine.kernel.vfs.root_fs.host_path(path))
    return status.st_dev, status.st_ino


def _is_in(pages: Resident) -> Callable[[int], bool]:
    return lambda index: index < len(pages) and bool(pages[index])


def _use_null(guest: Guest) -> None:
    """Put the standard streams on /dev/null: the guest's own one, since some programs
    (grep) compare their output with that file, and do less if they find it."""
    process = guest.process
    null = guest.machine.kernel.vfs.open(process.fs, os.fsencode(os.devnull), os.O_RDWR)
    for fd in range(3):
        process.files.close(fd)
    process.files.install(null)
    process.files.dup2(0, 1)
    process.files.dup2(0, 2)
