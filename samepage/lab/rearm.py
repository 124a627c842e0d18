"""Protecting written pages again, epoch by epoch, so that every writer is seen and not the first
alone.

Each process gets a registration (`samepage.trace.write_protect`), which its forks inherit: a fork
waits until its registration is read here, so the waiting between epochs reads them.
"""

import contextlib
import selectors
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from samepage.errors import SamepageError
from samepage.trace.keeper import Keeper
from samepage.trace.write_protect import Registration, WrittenPages, register_private

_POLL = 0.1
"""Seconds between looks for an interruption."""


class Rearmer:
    """The armed processes. Leaving it undoes everything.

    `epochs` counts how often pages were protected again; `started` holds the time of each
    (ns of CLOCK_MONOTONIC). `missing` has a line for each process that could not be armed.
    """

    def __init__(self, keeper: Keeper, pids: Sequence[int]) -> None:
        self._selector = selectors.DefaultSelector()
        self._pages: dict[int, WrittenPages] = {}
        self.started: list[int] = []
        self.missing: list[str] = []
        for pid in pids:
            try:
                registration = keeper.arm(pid)
                register_private(registration, pid)
                self._add(pid, registration)
            except ProcessLookupError:
                continue
            except SamepageError as error:
                self.missing.append(f"later writers of {pid}: {error.message}")

    def __enter__(self) -> "Rearmer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.data.close()
        for pages in self._pages.values():
            pages.close()
        self._selector.close()

    @property
    def epochs(self) -> int:
        """How often pages were protected again."""
        return len(self.started)

    @property
    def armed(self) -> bool:
        """Whether any process is."""
        return bool(self._pages)

    def _add(self, pid: int, registration: Registration) -> None:
        self._selector.register(registration.fileno(), selectors.EVENT_READ, registration)
        self._pages[pid] = WrittenPages(pid)
        self._pages[pid].take()

    def pass_epoch(
        self, seconds: float, pids: Sequence[int], interrupted: Callable[[], bool] = bool
    ) -> None:
        """Wait so long or until it is `interrupted`, letting forks pass; then protect again what
        `pids` have written, those of them that are armed or were forked by one that is."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not interrupted():
            for key, _ in self._selector.select(min(left, _POLL)):
                child = key.data.forked()
                if child is not None:
                    self._selector.register(child.fileno(), selectors.EVENT_READ, child)
        for pid in pids:
            if pid not in self._pages:
                with contextlib.suppress(OSError):
                    self._pages[pid] = WrittenPages(pid)
        for pages in self._pages.values():
            pages.take()
        self.started.append(time.monotonic_ns())
