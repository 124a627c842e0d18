"""Records joined batch by batch give the writes that they give all at once."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.trace.perf.decode import Records
from samepage.trace.perf.tracefs import Tracepoint
from samepage.trace.stack_words import KEPT, CodeRanges, reduce_stacks
from samepage.trace.write_stream import _split
from samepage.trace.writes import (
    ALLOC,
    FINISHED,
    USER_FAULT,
    Writes,
    concatenate,
    find_writes,
)

RAW = [("raw_size", "<u4"), ("raw", "u1", (24,))]
SAMPLE = np.dtype([("id", "<u8"), ("pid", "<u4"), ("tid", "<u4"), ("time", "<u8"), *RAW])
DONE = np.dtype([("id", "<u8"), ("ip", "<u8"), ("pid", "<u4"), ("tid", "<u4"), ("time", "<u8")])
POINTS = {
    USER_FAULT: Tracepoint(USER_FAULT, 1, {"address": (0, 8), "ip": (8, 8), "error_code": (16, 8)}),
    ALLOC: Tracepoint(ALLOC, 2, {"pfn": (0, 8)}),
}


def sample(tid: int, time: int, *words: int) -> np.ndarray:
    row = np.zeros(1, SAMPLE)
    row["pid"] = row["tid"] = tid
    row["time"] = time
    row["raw"][0] = np.array([*words, 0, 0, 0][:3], "<u8").view("u1")
    return row


def done(tid: int, time: int) -> np.ndarray:
    row = np.zeros(1, DONE)
    row["pid"] = row["tid"] = tid
    row["time"] = time
    return row


def joined(batches: list[tuple[dict[str, list[np.ndarray]], int]]) -> Writes:
    carried: dict[str, list[np.ndarray]] = {}
    parts = []
    for samples, until in batches:
        for name, rows in carried.items():
            samples.setdefault(name, []).extend(rows)
        ready, carried = _split(samples, until)
        parts.append(find_writes(Records(ready), POINTS, page_shift=12))
    parts.append(find_writes(Records(carried), POINTS, page_shift=12))
    return concatenate(parts)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), max_size=12),
    st.lists(st.integers(0, 60), max_size=3),
)
def test_the_boundaries_of_batches_change_nothing(
    faults: list[tuple[int, bool, bool]], cuts: list[int]
) -> None:
    rows: list[tuple[int, str, np.ndarray]] = []
    for number, (tid, present, allocates) in enumerate(faults):
        time = 10 + number * 5
        rows.append((time, USER_FAULT, sample(tid, time, number << 12, 7, 2 | present)))
        if allocates:
            rows.append((time + 1, ALLOC, sample(tid, time + 1, 100 + number)))
        rows.append((time + 2, FINISHED, done(tid, time + 2)))
    whole: dict[str, list[np.ndarray]] = {}
    for _, name, row in rows:
        whole.setdefault(name, []).append(row)
    expected = find_writes(Records(whole), POINTS, page_shift=12)
    batches = []
    edges = [0, *sorted(cuts), 1000]
    for low, high in itertools.pairwise(edges):
        batch: dict[str, list[np.ndarray]] = {}
        for time, name, row in rows:
            if low <= time < high:
                batch.setdefault(name, []).append(row)
        batches.append((batch, high - 1))
    found = joined(batches)
    assert found.page.tolist() == expected.page.tolist()
    assert found.kind.tolist() == expected.kind.tolist()
    assert found.frame.tolist() == expected.frame.tolist()


def test_a_fault_that_arrives_after_its_end_is_joined() -> None:
    fault, alloc, end = sample(1, 10, 4096, 7, 3), sample(1, 11, 55), done(1, 12)
    found = joined([({FINISHED: [end], ALLOC: [alloc]}, 9), ({USER_FAULT: [fault]}, 1000)])
    assert found.frame.tolist() == [55]


def test_ranges_that_touch_are_one_and_hold_their_addresses() -> None:
    code = CodeRanges()
    for start, end in ((100, 200), (300, 400), (200, 250), (50, 60)):
        code.add(start, end)
    words = np.array([49, 50, 59, 60, 100, 249, 250, 300, 399, 400], np.uint64)
    assert code.hold(words).tolist() == [False, True, True, False, True, True, False, True, True,
                                         False]  # fmt: skip


def test_the_innermost_return_addresses_are_kept_of_a_stack() -> None:
    layout = np.dtype(
        [("pid", "<u4"), ("abi", "<u8"), ("stack", "u1", (64,)), ("stack_used", "<u8")]
    )
    part = np.zeros(2, layout)
    part["pid"] = [5, 6]
    part["stack"][0] = np.array([1, 105, 2, 110, 107, 101, 102, 103], "<u8").view("u1")
    part["stack"][1] = np.array([9, 9, 104, 9, 9, 9, 9, 108], "<u8").view("u1")
    part["stack_used"] = [64, 32]
    code = CodeRanges()
    code.add(100, 120)
    (reduced,) = reduce_stacks({"x": [part]}, code)["x"]
    assert reduced["pid"].tolist() == [5, 6]
    assert reduced["callers"].tolist() == [[105, 110, 107, 101], [104, 0, 0, 0]]
    assert KEPT == 4
