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
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from samepage.abi.page import HOST_PAGE_SHIFT
from samepage.errors import SamepageError
from samepage.lab.rearm import Rearmer
from samepage.lab.seen import Seen
from samepage.lab.targets import Target
from samepage.lab.without_root import MISSING, RING_PAGES, find_user_writes, user_events
from samepage.lab.write_table import build_table
from samepage.live.private_frames import sees_frame_numbers
from samepage.live.script_functions import has_script_functions
from samepage.snapshot.writes import Frames, WriteTable
from samepage.trace.keeper import Keeper
from samepage.trace.perf.session import Session
from samepage.trace.perf.tasks import Tasks, read_tasks
from samepage.trace.perf.tracefs import Tracepoint, find_tracepoints
from samepage.trace.write_stream import WriteStream
from samepage.trace.writes import FINISHED, TRACEPOINTS, write_events

_POLL = 0.05
"""Seconds between looks at the clock, where no epoch is shorter."""
_READ_EVERY = 0.5


@dataclass(slots=True)
class Followed:
    """What was seen of a set of processes over `seconds`.

    `before`, `after`: private frames by pid. `parents`: who each process was forked from.
    `execs`: those that have executed a program meanwhile. `names`: what `comm` was. `epochs`:
    how often written pages were protected again; 0: only first writers are known. `missing`:
    what could not be seen, one line each; `notes`: which functions have no names, and why.
    """

    seconds: float
    before: dict[int, Frames]
    after: dict[int, Frames]
    parents: dict[int, int]
    execs: set[int]
    names: dict[int, str]
    writes: WriteTable
    epochs: int = 0
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def follow(target: Target, seconds: float, *, epoch: float = 0.0, stacks: bool = False) -> Followed:
    """Record the writes of the processes of a target, and of all that they fork meanwhile.

    `seconds` is how long; Ctrl-C ends it early, as does the end of the last process.
    With `epoch`, pages written to are protected again each so many seconds, so that later
    writers are seen too. With `stacks`, or if a process has written a perf map, the functions of
    scripts are looked for on the stacks. Raises `SamepageError` if nothing can be recorded.
    """
    with contextlib.ExitStack() as stack:
        keeper = stack.enter_context(Keeper()) if epoch else None
        seen = Seen()
        with_stacks = stacks or any(has_script_functions(pid) for pid in target.pids())
        session, tracepoints, refusal = _open_session(target, stacks=with_stacks)
        stack.enter_context(session)
        stream = WriteStream(session.specs, tracepoints, page_shift=HOST_PAGE_SHIFT)
        missing: list[str] = []
        session.enable()
        start = time.monotonic()
        before = seen.read(target.pids(), missing)
        if not before:
            raise SamepageError(
                "none of these processes may be read: "
                + ("; ".join(missing) or "they have ended, or are kernel threads")
            )
        unreadable = set(target.pids()) - set(before)
        rearmer = stack.enter_context(Rearmer(keeper, list(before))) if keeper else None
        for area in seen.mappings:
            stream.code.add_mapping(area.start, area.end, area.perms, area.name)
        with _Interruption() as interruption:
            target.begin()
            reading = start
            while not interruption.asked and target.running:
                now = time.monotonic()
                if now >= start + seconds:
                    break
                if now >= reading + _READ_EVERY:
                    stream.add(*session.take())
                    reading = now
                wait = min(start + seconds - now, epoch or _POLL)
                if rearmer is None:
                    time.sleep(wait)
                else:
                    rearmer.pass_epoch(wait, target.pids(), interruption)
        after = seen.read([pid for pid in target.pids() if pid not in unreadable], missing)
        session.disable()
        elapsed = time.monotonic() - start
        stream.add(*session.take())
        tasks = read_tasks(stream.tasks)
        seen.add(tasks)
        if refusal:
            missing.append(f"{MISSING} ({refusal})")
            writes = find_user_writes(
                stream.rest(FINISHED),
                stream.lost,
                before,
                after,
                tasks,
                page_shift=HOST_PAGE_SHIFT,
            )
        else:
            writes = stream.finish()
        missing += rearmer.missing if rearmer else []
        missing += _what_is_not_compared(before, after, tasks)
        return Followed(
            elapsed,
            before,
            after,
            seen.parents,
            set(tasks.execs),
            {pid: name for pid, name in seen.names.items() if pid in before or pid in after},
            build_table(writes, tasks, seen, rearmer.started if rearmer else []),
            rearmer.epochs if rearmer else 0,
            missing,
            seen.unnamed_scripts(),
        )


def _open_session(target: Target, *, stacks: bool) -> tuple[Session, dict[str, Tracepoint], str]:
    """The events on a target; and why they are those of an ordinary user only, or "".

    Raises `SamepageError` if not even these can be opened.
    """
    session = None
    try:
        tracepoints = find_tracepoints(*TRACEPOINTS)
        if len(tracepoints) < len(TRACEPOINTS):
            absent = ", ".join(sorted(set(TRACEPOINTS) - set(tracepoints)))
            raise SamepageError(f"this kernel lacks the tracepoints {absent}")
        session = Session(write_events(tracepoints, stacks=stacks))
        target.attach(session)
    except SamepageError as error:
        if session is not None:
            session.close()
        if sees_frame_numbers():
            raise
        session = Session(user_events(), ring_pages=RING_PAGES)
        try:
            target.attach(session)
        except BaseException:
            session.close()
            raise
        return session, {}, error.message
    return session, tracepoints, ""


class _Interruption:
    """Ctrl-C as a question: records that were taken must be joined before anything ends. A
    second one is the usual KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)


def _what_is_not_compared(
    before: Mapping[int, Frames], after: Mapping[int, Frames], tasks: Tasks
) -> list[str]:
    """Lines about what the two readings of frames do not cover."""
    lines = []
    ended = (set(before) | set(tasks.forks)) - set(after)
    if ended:
        lines.append(
            f"{len(ended)} processes ended meanwhile: their writes are counted, but no second "
            "reading shows whether these are all"
        )
    swapped = sum(frames.swapped for frames in after.values())
    if swapped:
        lines.append(f"{swapped} pages are swapped out: they are not compared")
    return lines
