"""Collecting with a limit on how long one process may hold everything up.

Reading /proc/PID/maps, pagemap or cmdline takes the address space's lock, and waits for it
without end: a thread that is stuck in D state (a disk or a network file system that does not
answer) may hold it. Nothing in /proc shows beforehand whether it will. So the reading is
done by a thread of its own, one step at a time; when a process takes longer than the limit,
that thread is left to itself, the process is counted in `Tally.stuck`, and a new thread
continues with the next one. (The wait can be ended by SIGKILL only, so the thread goes away when
the process is freed, or when we exit.)

The same holds for the mapped files: looking at one on a file system that does not answer
waits as long (`each_patiently`).
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from samepage.errors import SamepageError
from samepage.live.collect import BATCH_ENTRIES, Batch, Collector
from samepage.live.procfs import Tally, list_pids

PATIENCE = 2.0
"""Seconds that one process may take without any progress."""

Item = TypeVar("Item")
Result = TypeVar("Result")


_FEW_RUNS = 3 * 16
"""Numbers in `Batch.runs` below which the next batch is read ahead. Then the kernel is busy for
long with each call, and the two threads seldom want the interpreter's lock at the same time;
with many short calls they would hinder each other more than they gain."""


class _Worker:
    """A thread that makes batches; where it pays, one while the caller works on the last."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="samepage-collect", daemon=True).start()
        self._ahead = False

    def next_batch(self, patience: float) -> Batch | None:
        """Return the next batch, None at the end; the one before it is no longer valid.

        Raises `TimeoutError` when a process made no progress for `patience` seconds, after
        which the worker must not be used any more; and whatever the collector raises.
        """
        if not self._ahead:
            self._requests.put(True)
        while True:
            before = self.collector.progress
            try:
                answer = self._answers.get(timeout=patience)
            except queue.Empty:
                if self.collector.progress == before:
                    raise TimeoutError from None
                continue
            if isinstance(answer, BaseException):
                raise answer
            self._ahead = answer is None or len(answer.runs) < _FEW_RUNS
            if self._ahead:
                self._requests.put(answer is not None)
            return answer

    def close(self) -> None:
        """Let the thread end."""
        self._requests.put(False)

    def _work(self) -> None:
        batches = self.collector.batches()
        while self._requests.get():
            try:
                self._answers.put(next(batches, None))
            except BaseException as error:
                self._answers.put(error)


def collect_system(
    pids: Sequence[int] | None,
    tally: Tally,
    *,
    proc: str = "/proc",
    patience: float = PATIENCE,
    without: frozenset[int] = frozenset(),
    first_number: int = 0,
    batch_entries: int = BATCH_ENTRIES,
    first_entries: int = BATCH_ENTRIES,
) -> Iterator[Batch]:
    """Yield the batches of `pids`, None for all processes but `without`.

    `tally` is complete at the end. `first_number` is the number of the first process.

    Raises `SamepageError` if `proc` cannot be read.
    """
    wanted = _all_pids(proc) - without if pids is None else set(pids)
    yield from collect_patiently(
        sorted(wanted),
        tally,
        proc=proc,
        patience=patience,
        first_number=first_number,
        batch_entries=batch_entries,
        first_entries=first_entries,
    )
    if pids is None:
        tally.appeared += len(_all_pids(proc) - wanted - without)


def _all_pids(proc: str) -> set[int]:
    try:
        return set(list_pids(proc))
    except OSError as error:
        raise SamepageError(f"cannot read {proc}: {error.strerror}") from None


def collect_patiently(
    pids: list[int],
    tally: Tally,
    *,
    proc: str = "/proc",
    patience: float = PATIENCE,
    first_number: int = 0,
    batch_entries: int = BATCH_ENTRIES,
    first_entries: int = BATCH_ENTRIES,
) -> Iterator[Batch]:
    """Yield the batches of `pids` as `Collector.batches` does, and add to `tally` at the end."""
    number = first_number
    while True:
        worker = _Worker(
            Collector(
                pids,
                proc=proc,
                first_number=number,
                batch_entries=batch_entries,
                first_entries=first_entries,
            )
        )
        collector = worker.collector
        try:
            while (batch := worker.next_batch(patience)) is not None:
                yield batch
            tally.add(collector.tally)
            return
        except TimeoutError:
            pids = pids[collector.position :]
            tally.add(collector.tally)
            tally.stuck += 1
            batch, number = collector.salvage()
            yield batch
        finally:
            worker.close()


def each_patiently(
    items: Sequence[Item], look: Callable[[Item], Result], patience: float = PATIENCE
) -> list[Result | None]:
    """Return `look` of each item, None for those that took longer than `patience` seconds.

    `look` is called in another thread, for one item after the other.
    """
    results: list[Result | None] = []
    while len(results) < len(items):
        results += _as_far_as_it_gets(items[len(results) :], look, patience)
    return results


def _as_far_as_it_gets(
    items: Sequence[Item], look: Callable[[Item], Result], patience: float
) -> list[Result | None]:
    """Return the results of the first items: of all, or up to and with one that hangs."""
    done: list[Result | None] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for item in items:
                done.append(look(item))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="samepage-look", daemon=True)
    thread.start()
    while True:
        before = len(done)
        thread.join(patience)
        if failed:
            raise failed[0]
        if not thread.is_alive():
            return done
        if len(done) == before:
            return [*done[:before], None]
