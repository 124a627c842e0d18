"""Following running processes for a time: who writes to what they share.

    keeper and registrations   arm what is to be seen again (each epoch)
    session                    events on all threads, and on what they start
    frames before              after the events are enabled, so that no write falls between
    ... the time passes; at each epoch, what was written is protected again ...
    frames after
    session ends

The order is what makes "nothing is missing" provable: each page that is in another frame at
the second reading was written to between two events that were recorded.
"""

import contextlib
import os
import selectors
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from samepage.abi.page import HOST_PAGE_SHIFT
from samepage.errors import SamepageError
from samepage.live.functions import CodeArea, Functions
from samepage.live.one_process import MapsLine
from samepage.live.pagemap import Scanner
from samepage.live.private_frames import read_private_frames
from samepage.live.procfs import list_pids
from samepage.snapshot.writes import KERNEL, Frames, Function, WriteTable
from samepage.trace.keeper import Keeper
from samepage.trace.perf.decode import decode
from samepage.trace.perf.session import Session
from samepage.trace.perf.tracefs import find_tracepoints
from samepage.trace.write_protect import Registration, WrittenPages, register_private
from samepage.trace.writes import TRACEPOINTS, Writes, find_writes, write_events

_POLL = 0.05
"""Seconds between looks at the clock, where no epoch is shorter."""


@dataclass(slots=True)
class Followed:
    """What was seen of a set of processes over `seconds`.

    `before`, `after`: private frames by pid; `areas`: the VMAs of the second reading (of the
    first, for those that have ended). `parents`: who each process was forked from, if that is
    one of them. `names`: what `comm` was. `epochs`: how often written pages were protected
    again; 0: only first writers are known. `missing`: what could not be seen, one line each.
    """

    seconds: float
    before: dict[int, Frames]
    after: dict[int, Frames]
    areas: dict[int, list[MapsLine]]
    parents: dict[int, int]
    names: dict[int, str]
    writes: WriteTable
    epochs: int = 0
    missing: list[str] = field(default_factory=list)


def follow(pids: Sequence[int], seconds: float, *, epoch: float = 0.0) -> Followed:
    """Record the writes of processes, and of all that they have forked and fork meanwhile.

    `seconds` is how long; KeyboardInterrupt ends it early. With `epoch`, pages written to are
    protected again each so many seconds, so that later writers are seen too. Raises
    `SamepageError` if nothing can be recorded.
    """
    with contextlib.ExitStack() as stack:
        keeper = stack.enter_context(Keeper()) if epoch else None
        tracepoints = find_tracepoints(*TRACEPOINTS)
        if len(tracepoints) < len(TRACEPOINTS):
            absent = ", ".join(sorted(set(TRACEPOINTS) - set(tracepoints)))
            raise SamepageError(f"this kernel lacks the tracepoints {absent}")
        session = stack.enter_context(Session(write_events(tracepoints)))
        tree = _family(pids)
        session.add_processes(tree)
        functions = Functions()
        missing: list[str] = []
        session.enable()
        start = time.monotonic()
        code = {pid: functions.areas(pid) for pid in tree}
        before, areas = _frames(tree, missing)
        if not before:
            raise SamepageError(
                "none of these processes may be read: "
                + ("; ".join(missing) or "they have ended, or are kernel threads")
            )
        unreadable = set(tree) - set(before)
        rearmer = stack.enter_context(_Rearmer(keeper, list(before), missing)) if keeper else None
        with contextlib.suppress(KeyboardInterrupt):
            _pass_time(start + seconds, epoch, rearmer)
        tree_after = _family([*tree, *pids])
        after, areas_after = _frames([pid for pid in tree_after if pid not in unreadable], missing)
        areas.update(areas_after)
        for pid in after:
            code[pid] = functions.areas(pid) or code.get(pid, [])
        session.disable()
        elapsed = time.monotonic() - start
        found = find_writes(
            decode(session.chunks, session.specs), tracepoints, page_shift=HOST_PAGE_SHIFT
        )
        everyone = sorted({*before, *after})
        return Followed(
            elapsed,
            before,
            after,
            areas,
            _parents(everyone),
            {pid: _comm(pid) for pid in everyone},
            _table(found, code, functions),
            rearmer.epochs if rearmer else 0,
            missing,
        )


def _pass_time(end: float, epoch: float, rearmer: "_Rearmer | None") -> None:
    while (left := end - time.monotonic()) > 0:
        if rearmer is None:
            time.sleep(min(left, _POLL))
        else:
            rearmer.pass_epoch(min(left, epoch))


class _Rearmer:
    """The armed processes: protects again what they have written, and follows their forks."""

    def __init__(self, keeper: Keeper, pids: Sequence[int], missing: list[str]) -> None:
        self._selector = selectors.DefaultSelector()
        self._pages: dict[int, WrittenPages] = {}
        self.epochs = 0
        for pid in pids:
            try:
                registration = keeper.arm(pid)
                register_private(registration, pid)
                self._add(pid, registration)
            except ProcessLookupError:
                continue
            except SamepageError as error:
                missing.append(f"later writers of {pid}: {error.message}")

    def __enter__(self) -> "_Rearmer":
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.data.close()
        for pages in self._pages.values():
            pages.close()
        self._selector.close()

    def _add(self, pid: int, registration: Registration) -> None:
        self._selector.register(registration.fileno(), selectors.EVENT_READ, registration)
        self._pages[pid] = WrittenPages(pid)
        self._pages[pid].take()

    def pass_epoch(self, seconds: float) -> None:
        """Wait so long, letting forks pass; then protect again what was written."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                child = key.data.forked()
                if child is not None:
                    self._selector.register(child.fileno(), selectors.EVENT_READ, child)
        for pid in _family(list(self._pages)):
            if pid not in self._pages:
                with contextlib.suppress(OSError):
                    self._pages[pid] = WrittenPages(pid)
        for pages in self._pages.values():
            pages.take()
        self.epochs += 1


def _frames(
    pids: Sequence[int], missing: list[str]
) -> tuple[dict[int, Frames], dict[int, list[MapsLine]]]:
    """Read the processes that live and may be read; a line in `missing` names each other."""
    scanner = Scanner()
    frames, areas = {}, {}
    for pid in pids:
        try:
            areas[pid], frames[pid] = read_private_frames(pid, scanner)
        except PermissionError:
            missing.append(f"process {pid}: its memory map may not be read")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return frames, areas


def _family(pids: Sequence[int]) -> list[int]:
    """These processes, as far as they live, and all their descendants, ascending; without this
    one and what it starts, which may be among them."""
    children: dict[int, list[int]] = {}
    alive = set(list_pids("/proc"))
    for pid in alive:
        children.setdefault(_ppid(pid), []).append(pid)
    alive.discard(os.getpid())
    found: set[int] = set()
    todo = [pid for pid in pids if pid in alive]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += (child for child in children.get(pid, []) if child in alive)
    return sorted(found)


def _parents(pids: Sequence[int]) -> dict[int, int]:
    return {pid: parent for pid in pids if (parent := _ppid(pid)) in set(pids)}


def _ppid(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _table(
    writes: Writes, code: Mapping[int, Sequence[CodeArea]], functions: Functions
) -> WriteTable:
    """Name the instructions of all writes, each (process, instruction) once."""
    pairs = np.stack([writes.pid.astype(np.uint64), np.where(writes.from_kernel, 0, writes.ip)], 1)
    unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
    known: dict[Function, int] = {}
    numbers = np.zeros(len(unique), np.int32)
    for place, (pid, ip) in enumerate(unique.tolist()):
        function = functions.at(pid, code.get(pid, []), ip) if ip else KERNEL
        numbers[place] = known.setdefault(function, len(known))
    return WriteTable(
        writes.pid, writes.page, writes.kind, numbers[inverse.ravel()], list(known), writes.lost
    )
