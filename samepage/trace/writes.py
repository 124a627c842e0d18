"""Who writes: the page faults of writes, and what the kernel did about each.

A write to a shared page faults, and three events of the same thread show what happened:

1. `exceptions:page_fault_user` or `page_fault_kernel`: address, instruction, error code.
   Bit 0 of the code: a page was present; bit 1: a write (Intel SDM, "Page-Fault Exception").
2. `kmem:mm_page_alloc`: the kernel took a frame, and which.
3. the software event PAGE_FAULTS_MIN: the fault was finished (handle_mm_fault).

Present and an allocation in between: copy-on-write (`wp_page_copy`). Present and none: the
page was the thread's own already and only its entry was read-only, or it was write-protected
again by an observer (`wp_page_reuse`). Absent: the first touch of the page by this process,
which for a private file page is a copy too (`do_cow_fault`).

A fault that the kernel tries again (FAULT_FLAG_RETRY, or a page that another thread has copied
meanwhile) raises one exception and is finished once, so it is one write here too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samepage.abi.perf_event import SW_PAGE_FAULTS_MIN, EventType, Flag, Sample
from samepage.snapshot.writes import WriteKind
from samepage.trace.perf.decode import Records
from samepage.trace.perf.event import EventSpec
from samepage.trace.perf.tasks import TASK_FLAGS
from samepage.trace.perf.tracefs import Tracepoint
from samepage.trace.stack_words import KEPT

USER_FAULT, KERNEL_FAULT = "exceptions:page_fault_user", "exceptions:page_fault_kernel"
ALLOC = "kmem:mm_page_alloc"
FINISHED = "page-faults-min"
TRACEPOINTS = (USER_FAULT, KERNEL_FAULT, ALLOC)

_PRESENT, _WRITE = 1, 2
_STACK = 2048
_STACK_POINTER = 1 << 7  # PERF_REG_X86_SP
_FINISHED_ROW, _FAULT_ROW, _ALLOC_ROW = 2, 0, 1


@dataclass(frozen=True, slots=True)
class Writes:
    """One element per write fault, in the order of time.

    `pid`, `tid`: u4. `time`: u8, ns of CLOCK_MONOTONIC. `page`: u8, the virtual page number
    (address >> page shift). `address`, `ip`: u8. `kind`: u1, `WriteKind`. `from_kernel`: bool,
    the kernel wrote for a system call. `frame`: i8, the frame that was allocated, or -1.
    `callers`: u8, shape (n, KEPT), return addresses into code without a file, innermost first
    (zeros where stacks are not recorded). `lost` counts records that the kernel had to drop: with
    any, the list is not complete.
    """

    pid: npt.NDArray[np.uint32]
    tid: npt.NDArray[np.uint32]
    time: npt.NDArray[np.uint64]
    page: npt.NDArray[np.uint64]
    address: npt.NDArray[np.uint64]
    ip: npt.NDArray[np.uint64]
    kind: npt.NDArray[np.uint8]
    from_kernel: npt.NDArray[np.bool_]
    frame: npt.NDArray[np.int64]
    callers: npt.NDArray[np.uint64]
    lost: int

    def __len__(self) -> int:
        return len(self.pid)

    def of_kind(self, kind: WriteKind) -> npt.NDArray[np.bool_]:
        """Which of them are of that kind."""
        return np.asarray(self.kind == kind)


def concatenate(parts: Sequence[Writes]) -> Writes:
    """All writes of some parts, in the order of time."""
    order = np.argsort(np.concatenate([part.time for part in parts]), kind="stable")
    return Writes(
        np.concatenate([part.pid for part in parts])[order],
        np.concatenate([part.tid for part in parts])[order],
        np.concatenate([part.time for part in parts])[order],
        np.concatenate([part.page for part in parts])[order],
        np.concatenate([part.address for part in parts])[order],
        np.concatenate([part.ip for part in parts])[order],
        np.concatenate([part.kind for part in parts])[order],
        np.concatenate([part.from_kernel for part in parts])[order],
        np.concatenate([part.frame for part in parts])[order],
        np.concatenate([part.callers for part in parts])[order],
        sum(part.lost for part in parts),
    )


def write_events(tracepoints: dict[str, Tracepoint], *, stacks: bool = False) -> list[EventSpec]:
    """The events to record. `tracepoints` has what `find_tracepoints(*TRACEPOINTS)` found;
    with `stacks` the innermost 2 KiB of the user's stack are copied at each write."""
    sample = Sample.TID | Sample.TIME | Sample.RAW
    with_stack = sample | Sample.REGS_USER | Sample.STACK_USER if stacks else sample
    specs = [
        EventSpec(
            name,
            EventType.TRACEPOINT,
            found.config,
            with_stack,
            filter="error_code & 2",
            stack=_STACK if stacks else 0,
            registers=_STACK_POINTER if stacks else 0,
        )
        for name, found in tracepoints.items()
        if name in (USER_FAULT, KERNEL_FAULT)
    ]
    if ALLOC in tracepoints:
        specs.append(EventSpec(ALLOC, EventType.TRACEPOINT, tracepoints[ALLOC].config, sample))
    specs.append(
        EventSpec(
            FINISHED,
            EventType.SOFTWARE,
            SW_PAGE_FAULTS_MIN,
            Sample.IP | Sample.TID | Sample.TIME | Sample.ADDR,
            Flag.EXCLUDE_HV | TASK_FLAGS,
        )
    )
    return specs


def find_writes(records: Records, tracepoints: dict[str, Tracepoint], *, page_shift: int) -> Writes:
    """Join the records of each thread into writes."""
    faults = _gather(records, tracepoints, USER_FAULT, KERNEL_FAULT)
    allocs = _gather(records, tracepoints, ALLOC)
    finished = np.concatenate(
        [part[["tid", "time"]] for part in records.samples.get(FINISHED, [])]
        or [np.zeros(0, [("tid", "<u4"), ("time", "<u8")])]
    )
    tid = np.concatenate([faults.tid, allocs.tid, finished["tid"]])
    time = np.concatenate([faults.time, allocs.time, finished["time"]])
    row = np.repeat(
        np.array([_FAULT_ROW, _ALLOC_ROW, _FINISHED_ROW], np.uint8),
        [len(faults.tid), len(allocs.tid), len(finished)],
    )
    source = np.concatenate(
        [np.arange(len(faults.tid)), np.arange(len(allocs.tid)), np.arange(len(finished))]
    )
    order = np.lexsort((time, tid))
    tid, row, source = tid[order], row[order], source[order]
    frame = np.full(len(faults.tid), -1, np.int64)
    # An allocation belongs to the last fault of its thread, if that is not finished yet.
    index = np.arange(len(row))
    last = np.maximum.accumulate(np.where(row != _ALLOC_ROW, index, -1)) if len(row) else index
    mine = (row == _ALLOC_ROW) & (last >= 0)
    owner = last[mine]
    mine[mine] = (row[owner] == _FAULT_ROW) & (tid[owner] == tid[mine])
    owner = last[mine]
    # The last allocation of a fault is the page itself: page tables come before it.
    frame[source[owner]] = allocs.values["pfn"][source[mine]]
    present = faults.values["error_code"] & _PRESENT != 0
    kind = np.where(
        present,
        np.where(frame >= 0, WriteKind.COPY, WriteKind.REUSE),
        WriteKind.FIRST_TOUCH,
    ).astype(np.uint8)
    by_time = np.argsort(faults.time, kind="stable")
    address = faults.values["address"]
    return Writes(
        faults.pid[by_time],
        faults.tid[by_time],
        faults.time[by_time],
        (address >> np.uint64(page_shift))[by_time],
        address[by_time],
        faults.values["ip"][by_time],
        kind[by_time],
        faults.from_kernel[by_time],
        frame[by_time],
        faults.callers[by_time],
        records.lost,
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Tracepoint records of some names together, with the fields of their raw data."""

    pid: npt.NDArray[np.uint32]
    tid: npt.NDArray[np.uint32]
    time: npt.NDArray[np.uint64]
    from_kernel: npt.NDArray[np.bool_]
    callers: npt.NDArray[np.uint64]
    values: dict[str, npt.NDArray[np.uint64]]


def _gather(records: Records, tracepoints: dict[str, Tracepoint], *names: str) -> _Rows:
    parts = [(name, part) for name in names for part in records.samples.get(name, [])]
    wanted = {field for name in names if name in tracepoints for field in tracepoints[name].fields}
    wanted = {field for field in wanted if not field.startswith("common_")}
    values = {
        field: np.concatenate(
            [_field(part, *tracepoints[name].fields[field]) for name, part in parts]
            or [np.zeros(0, np.uint64)]
        )
        for field in wanted | {"address", "ip", "error_code", "pfn"}
        if all(field in tracepoints[name].fields for name, _ in parts)
    }
    empty = np.zeros(0, np.uint32)
    return _Rows(
        np.concatenate([part["pid"] for _, part in parts] or [empty]),
        np.concatenate([part["tid"] for _, part in parts] or [empty]),
        np.concatenate([part["time"] for _, part in parts] or [np.zeros(0, np.uint64)]),
        np.concatenate(
            [np.full(len(part), name == KERNEL_FAULT) for name, part in parts]
            or [np.zeros(0, np.bool_)]
        ),
        np.concatenate([_callers(part) for _, part in parts] or [np.zeros((0, KEPT), np.uint64)]),
        values,
    )


def _callers(part: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    if "callers" in (part.dtype.names or ()):
        return np.asarray(part["callers"])
    return np.zeros((len(part), KEPT), np.uint64)


def _field(part: npt.NDArray[np.void], offset: int, size: int) -> npt.NDArray[np.uint64]:
    """One field of the raw data, as unsigned 64-bit."""
    value = np.ascontiguousarray(part["raw"][:, offset : offset + size]).view(f"<u{size}")[:, 0]
    return np.asarray(value.astype(np.uint64))
