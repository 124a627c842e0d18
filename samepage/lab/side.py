"""The sides: what runs programs to an instant, and shows their memory there.

`Side` is the small protocol that every tenant has: prepare, run, observe, end. `HoldingSide`
adds programs that are held on their way (`Held`), for whoever looks at one several times;
what was recorded cannot do that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from samepage.lab.observation import Observation
from samepage.lab.scenario import Scenario
from samepage.snapshot.columns import Snapshot
from samepage.stop_at import StopAt


class Side(Protocol):
    """Where a scenario is run. A context manager: leaving it ends all its programs.

    The order of the calls is `prepare`, then `run` for each command, then `observe`.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

    def prepare(self, scenario: Scenario) -> None:
        """Bring the side into the state from which the scenario starts.

        Raises `SamepageError` if it cannot be run here.
        """

    def run(self, argv: Sequence[str]) -> int | None:
        """Run one program, with all that it forks, to the scenario's instant, and keep its
        memory. Returns its exit status as a shell has it, None if it is held before its end.

        Raises `SamepageError` if it cannot be started, or does not get there.
        """

    def observe(self) -> Observation:
        """The memory of all programs that were run. Raises `SamepageError`."""


class HoldingSide(Side, Protocol):
    """A side on which programs can be held at any instant."""

    def start(self, argv: Sequence[str]) -> "Held":
        """Start a program, and hold it before its first instruction."""

    def cached(self, path: str) -> dict[int, int]:
        """The page cache's pages of a file: file page -> frame."""

    def cached_bytes(self, path: str, file_page: int) -> bytes:
        """The content of a page in the page cache."""

    def snapshot(self) -> Snapshot:
        """The memory of all held programs."""


class Held(Protocol):
    """A program that is held whenever it is looked at."""

    pid: int

    @property
    def pc(self) -> int:
        """The address of the next instruction."""

    def run_to(self, stop_at: StopAt) -> None:
        """Run to an instant. Raises `SamepageError` as `Side.run` does."""

    def run_until_mapped(self, path: str) -> None:
        """Run up to the end of the mmap that maps the last segment of a library, the writable
        one. Raises `SamepageError` if the program ends before."""

    def run_until_call(self, addresses: Mapping[int, str]) -> tuple[int, int]:
        """Run until the first instruction of a function at one of the addresses has been
        fetched; return that address, and how many pages of its VMA the fetch made present.
        Raises `SamepageError` if the program ends before."""

    def segments(self, path: str) -> "list[Segment]":
        """The VMAs of a file in ascending order."""

    def pages(self, path: str) -> "list[Page]":
        """The present pages of a file's VMAs in ascending order."""

    def touch(self, address: int) -> None:
        """Have the byte at an address read, with the fault that this may take."""

    def read(self, address: int, length: int) -> bytes:
        """Bytes of the program's memory."""

    def faults(self) -> tuple[int, int]:
        """Minor and major faults of the program so far."""

    def file_faults(self, path: str) -> "list[Fault]":
        """The faults on a file so far, where the side lists them one by one."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One VMA of a file, as in `/proc/PID/maps`."""

    start: int
    end: int
    perms: str
    offset: int

    @property
    def pages(self) -> int:
        """The length in pages."""
        return (self.end - self.start) >> 12


@dataclass(frozen=True, slots=True)
class Page:
    """A present page of a file's VMA. `private`: a copy of the process's own, not the
    file's."""

    file_page: int
    address: int
    frame: int
    private: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """A page fault on a file; only the model lists them.

    `by` is the function of the instruction, or its file and offset; `pages` is how many were
    mapped, `frame` that of the page at fault; `cached` whether the page cache had it.
    """

    kind: str
    by: str
    file_page: int
    pages: int
    frame: int
    cached: bool


def observe(side: Side, scenario: Scenario) -> Observation:
    """Run a scenario on a side from beginning to end. Raises `SamepageError`."""
    with side:
        side.prepare(scenario)
        statuses = [side.run(argv) for argv in scenario.commands]
        observation = side.observe()
        if observation.was_run:
            observation.statuses = statuses
        return observation
