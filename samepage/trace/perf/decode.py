"""Records of perf events as columns.

A record is a header (`struct perf_event_header`: type u32, misc u16, size u16, the size
includes the header) and a body whose fields and order follow from the event's sample type
(include/uapi/linux/perf_event.h, PERF_RECORD_SAMPLE). Records of one event and one size have
one layout, so they are gathered as a structured array in one step; only the headers are
visited one by one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from samepage.abi.perf_event import HEADER_SIZE, RecordType, Sample
from samepage.trace.perf.event import EventSpec
from samepage.trace.perf.tasks import TASK_RECORDS


@dataclass(slots=True)
class Records:
    """What was recorded.

    `samples` maps the name of an event to a structured array, one element per record, with
    those of the fields `ip`, `pid`, `tid`, `time` (ns of the perf clock), `addr`, `cpu`,
    `raw` (its bytes), `abi`, `registers`, `stack` that its sample type asks for.
    Records of one event that differ in size are separate arrays of the list. `tasks` are the
    records (type, misc, body) that `samepage.trace.perf.tasks` reads. `lost` counts records
    that the kernel dropped, or that belong to no event of the session.
    """

    samples: dict[str, list[npt.NDArray[np.void]]] = field(default_factory=dict)
    tasks: list[tuple[int, int, bytes]] = field(default_factory=list)
    lost: int = 0


def decode(chunks: Iterable[bytes], specs: Mapping[int, EventSpec]) -> Records:
    """The records in `chunks` (each holds whole records). Raises ValueError for records that
    contradict their own sizes: the kernel does not write such."""
    records = Records()
    samples: dict[str, list[npt.NDArray[np.void]]] = defaultdict(list)
    for chunk in chunks:
        data = np.frombuffer(chunk, np.uint8)
        for (kind, size), offsets in _by_layout(chunk).items():
            number, misc = kind & 0xFFFF_FFFF, kind >> 32
            if number in TASK_RECORDS:
                bodies = (chunk[at + HEADER_SIZE : at + size] for at in offsets)
                records.tasks += ((number, misc, body) for body in bodies)
                continue
            rows = data[np.asarray(offsets)[:, None] + np.arange(HEADER_SIZE, size)]
            if number == RecordType.SAMPLE:
                records.lost += _add_samples(rows, specs, samples)
            elif number == RecordType.LOST:
                records.lost += int(rows[:, 8:16].copy().view("<u8").sum())
            elif number == RecordType.LOST_SAMPLES:
                records.lost += int(rows[:, :8].copy().view("<u8").sum())
    records.samples = dict(samples)
    return records


def _by_layout(chunk: bytes) -> dict[tuple[int, int], list[int]]:
    """Where the records of each (type and misc << 32, size) begin."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    # Sizes are multiples of 8: one word holds the header.
    words = memoryview(chunk).cast("Q")
    at, end = 0, len(words)
    while at < end:
        header = words[at]
        size = header >> 48
        if size < HEADER_SIZE or size & 7:
            raise ValueError(f"a record of {size} bytes at {at * 8}")
        found[header & 0xFFFF_FFFF_FFFF, size].append(at * 8)
        at += size >> 3
    return found


def _add_samples(
    rows: npt.NDArray[np.uint8],
    specs: Mapping[int, EventSpec],
    samples: dict[str, list[npt.NDArray[np.void]]],
) -> int:
    """Add records to their events; returns how many are of no event that is known."""
    unknown = 0
    idents = rows[:, :8].copy().view("<u8")[:, 0]
    for ident in np.unique(idents):
        chosen = rows[idents == ident]
        spec = specs.get(int(ident))
        if spec is None:
            unknown += len(chosen)
            continue
        layout = _layout(spec, chosen.shape[1])
        samples[spec.name].append(_view(chosen, layout))
    return unknown


def _view(rows: npt.NDArray[np.uint8], layout: np.dtype[np.void]) -> npt.NDArray[np.void]:
    return np.ascontiguousarray(rows[:, : layout.itemsize]).view(layout)[:, 0]


def _layout(spec: EventSpec, body: int) -> np.dtype[np.void]:
    """The fields of a body of that many bytes. A record of a thread without user registers
    (a kernel thread) has an `abi` of 0 and no registers: it is shorter."""
    sample = spec.sample
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = [("id", "<u8")]
    if sample & Sample.IP:
        fields.append(("ip", "<u8"))
    if sample & Sample.TID:
        fields += [("pid", "<u4"), ("tid", "<u4")]
    if sample & Sample.TIME:
        fields.append(("time", "<u8"))
    if sample & Sample.ADDR:
        fields.append(("addr", "<u8"))
    if sample & Sample.CPU:
        fields += [("cpu", "<u4"), ("cpu_reserved", "<u4")]
    fixed = np.dtype(fields).itemsize
    registers = spec.registers.bit_count() * 8 if sample & Sample.REGS_USER else 0
    stack = spec.stack + 16 if sample & Sample.STACK_USER else 0
    user = (8 + registers if sample & Sample.REGS_USER else 0) + stack
    if sample & Sample.RAW:
        # u32 size, then data, padded so that both together are a multiple of 8.
        raw = body - fixed - user - 4
        if raw < 0:
            return np.dtype(fields)
        fields += [("raw_size", "<u4"), ("raw", "u1", (raw,))]
    if user and body >= fixed + user:
        if sample & Sample.REGS_USER:
            fields += [("abi", "<u8"), ("registers", "<u8", (registers // 8,))]
        if stack:
            fields += [("stack_size", "<u8"), ("stack", "u1", (spec.stack,)), ("stack_used", "<u8")]
    return np.dtype(fields)
