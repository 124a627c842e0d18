"""Copies, causes and savings, by cases that can be counted by hand and against a slow rule."""

from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.analysis.cause_classes import KERNEL_WRITES, classes_of, classify
from samepage.analysis.copies import copied_pages, find_causes, find_unshared
from samepage.analysis.why import explain
from samepage.snapshot.writes import COPIES, KERNEL, Area, Frames, Function, WriteKind, WriteTable

COPY, REUSE, FIRST = WriteKind.COPY, WriteKind.REUSE, WriteKind.FIRST_TOUCH


def table(*rows: tuple[int, int, WriteKind, int], functions: int = 4, lost: int = 0) -> WriteTable:
    columns = zip(*rows, strict=True) if rows else ([],) * 4
    pid, page, kind, function = (list(column) for column in columns)
    numbers = np.array(page, np.uint64)
    none = np.full(len(numbers), -1, np.int64)
    return WriteTable(
        np.array(pid, np.uint32),
        numbers,
        np.array(kind, np.uint8),
        np.array(function, np.int32),
        np.full(len(numbers), -1, np.int32),
        np.zeros(len(numbers), np.int32),
        none,
        numbers << np.uint64(12),
        np.zeros(len(numbers), np.uint64),
        np.zeros(len(numbers), np.uint32),
        none,
        [Function(f"f{number}", "/lib/x.so") for number in range(functions)],
        [Area("")],
        lost,
    )


def frames(own_copies: Collection[int] = (), **pages: int) -> Frames:
    numbers = sorted((int(name[1:]), frame) for name, frame in pages.items())
    return Frames(
        np.array([page for page, _ in numbers], np.uint64),
        np.array([frame for _, frame in numbers], np.uint64),
        np.array([page in own_copies for page, _ in numbers], np.bool_),
        np.zeros(len(numbers), np.bool_),
    )


def test_a_page_left_sharing_if_it_was_in_the_parents_frame_and_is_not_now() -> None:
    before = {1: frames(p1=10, p2=20, p3=30), 2: frames(p1=10, p2=20, p3=31)}
    after = {1: frames(p1=10, p2=20, p3=32), 2: frames(p1=11, p2=20, p3=33)}
    found = find_unshared(before, after, {2: 1}, table((2, 1, COPY, 0)))
    assert found.page.tolist() == [1], "page 2 is shared still, page 3 never was"
    assert found.explained.tolist() == [True]


def test_frames_that_the_kernel_moved_for_both_are_no_copies() -> None:
    before = {1: frames(p1=10, p2=20), 2: frames(p1=10, p2=20)}
    after = {1: frames(p1=110, p2=120), 2: frames(p1=110, p2=120)}
    assert len(find_unshared(before, after, {2: 1}, table())) == 0


def test_a_write_of_the_parent_explains_the_childs_page() -> None:
    before = {1: frames(p1=10), 2: frames(p1=10), 3: frames(p1=10)}
    after = {1: frames(p1=11), 2: frames(p1=10), 3: frames(p1=10)}
    found = find_unshared(before, after, {2: 1, 3: 1}, table((1, 1, COPY, 0)))
    assert sorted(found.pid.tolist()) == [2, 3]
    assert found.explained.all()
    assert not find_unshared(before, after, {2: 1, 3: 1}, table()).explained.any()


def test_a_child_forked_meanwhile_was_born_with_its_parents_pages() -> None:
    before = {1: frames(p1=10, p2=20)}
    after = {1: frames(p1=10, p2=20, p3=30), 2: frames(p1=10, p2=21, p3=31)}
    found = find_unshared(before, after, {2: 1}, table((2, 2, COPY, 0)))
    assert found.page.tolist() == [2], "page 3 is a first touch of each"


def test_what_two_write_to_neither_of_them_saves() -> None:
    writes = table(
        (1, 5, COPY, 0), (1, 5, REUSE, 1), (1, 6, COPY, 0), (2, 6, COPY, 1), (1, 7, FIRST, 2)
    )
    causes = {cause.function: cause for cause in find_causes(writes, writes.function)}
    assert (causes[0].touched, causes[0].saved, causes[0].copied, causes[0].processes) == (
        2,
        1,
        2,
        1,
    )
    assert (causes[1].touched, causes[1].saved, causes[1].copied, causes[1].processes) == (
        2,
        1,
        1,
        2,
    )
    assert 2 not in causes, "a first touch is no copy"
    assert copied_pages(writes) == 3


def test_functions_of_one_cause_count_as_one_writer() -> None:
    writes = table((1, 5, COPY, 0), (1, 5, REUSE, 1), (1, 5, REUSE, 0))
    assert [cause.saved for cause in find_causes(writes, writes.function)] == [0, 0]
    (cause,) = find_causes(writes, np.array([3, 3, 0, 0], np.int32)[writes.function])
    assert (cause.function, cause.saved, cause.touched) == (3, 1, 1)


ROWS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.one_of(st.integers(0, 5), st.integers(2**43, 2**43 + 3)),
        st.sampled_from(list(WriteKind)),
        st.integers(0, 3),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(ROWS)
def test_causes_are_those_of_a_plain_count(rows: list[tuple[int, int, WriteKind, int]]) -> None:
    copied = {(pid, page) for pid, page, kind, _ in rows if kind in COPIES}
    writers: dict[tuple[int, int], set[int]] = {}
    for pid, page, kind, function in rows:
        if (pid, page) in copied and kind is not FIRST:
            writers.setdefault((pid, page), set()).add(function)
    writes = table(*rows)
    causes = find_causes(writes, writes.function)
    found = {cause.function: cause for cause in causes}
    for function in range(4):
        touched = [key for key, names in writers.items() if function in names]
        alone = [key for key in touched if writers[key] == {function}]
        cause = found.get(function)
        assert (cause.touched if cause else 0) == len(touched)
        assert (cause.saved if cause else 0) == len(alone)
        assert (cause.processes if cause else 0) == len({pid for pid, _ in touched})
    savings = [cause.saved for cause in causes]
    assert savings == sorted(savings, reverse=True)


def test_lost_events_make_an_answer_incomplete() -> None:
    answer = explain({}, {}, {}, table((1, 1, COPY, 0), lost=1), all_writers=False)
    assert not answer.complete
    assert explain({}, {}, {}, table((1, 1, COPY, 0)), all_writers=False).complete


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("gc_collect_main", "/usr/bin/python3.11", "cpython.gc"),
        ("visit_reachable", "/opt/lib/libpython3.12.so.1.0", "cpython.gc"),
        ("_PyObject_Malloc", "/usr/bin/python3.9", "cpython.allocator"),
        ("_PyEval_EvalFrameDefault", "/usr/bin/python3.14", "cpython.refcount"),
        ("visit_reachable", "/usr/lib/libother.so", "own.libother.so"),
        ("_int_malloc", "/lib/x86_64-linux-gnu/libc.so.6", "glibc.malloc"),
        ("memcpy", "/lib/x86_64-linux-gnu/libc.so.6", "own.libc.so.6"),
        ("je_arena_malloc_hard", "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "jemalloc.malloc"),
        ("_dl_fixup", "/lib64/ld-linux-x86-64.so.2", "glibc.lazy-binding"),
        ("_dl_relocate_object", "/lib64/ld-linux-x86-64.so.2", "glibc.relocation"),
        ("gc_mark_ptr", "/usr/lib/libruby-3.1.so.3.1", "ruby.gc"),
        ("vm_exec_core", "/usr/bin/ruby3.1", "ruby.objects"),
        ("", "", "own.code without a file (a JIT?)"),
    ],
)
def test_writers_belong_to_the_class_of_their_runtime(name: str, file: str, expected: str) -> None:
    assert classify(Function(name, file)).id == expected


def test_classes_are_listed_once() -> None:
    functions = [
        Function("gc_collect_main", "/usr/bin/python3.11"),
        KERNEL,
        Function("update_refs", "/usr/bin/python3.11"),
    ]
    classes, numbers = classes_of(functions)
    assert numbers == [0, 1, 0]
    assert classes[1] is KERNEL_WRITES


def test_an_own_copy_of_a_file_page_left_the_file() -> None:
    before = {1: frames(p1=10, p2=20)}
    after = {1: frames((1, 2, 3), p1=11, p2=20, p3=30)}
    found = find_unshared(before, after, {}, table((1, 1, COPY, 0), (1, 3, WriteKind.FILE_COPY, 0)))
    assert found.page.tolist() == [1, 2, 3], "page 3 was absent"
    assert found.explained.tolist() == [True, False, True]


def test_own_copies_from_before_or_of_the_parent_have_not_left_now() -> None:
    before = {1: frames((1,), p1=10), 2: frames((1,), p1=10)}
    after = {1: frames((1,), p1=10), 2: frames((1,), p1=10), 3: frames((1,), p1=10)}
    assert len(find_unshared(before, after, {2: 1, 3: 2}, table())) == 0


def test_what_was_executed_shares_nothing_with_the_parent() -> None:
    before = {1: frames(p1=10), 2: frames(p1=10)}
    after = {1: frames(p1=10), 2: frames((7,), p1=15, p7=70)}
    writes = table((2, 7, WriteKind.FILE_COPY, 0))
    assert find_unshared(before, after, {2: 1}, writes, {2}).page.tolist() == [7]


def test_a_grandchild_is_explained_by_whoever_wrote_before_its_fork() -> None:
    before = {1: frames(p1=10)}
    after = {1: frames(p1=10), 2: frames(p1=11), 3: frames(p1=12)}
    writes = table((2, 1, COPY, 0), (3, 1, COPY, 0))
    found = find_unshared(before, after, {2: 1, 3: 2}, writes)
    assert sorted(found.pid.tolist()) == [2, 3]
    assert found.explained.all()
    only_child = find_unshared(before, after, {2: 1, 3: 2}, table((2, 1, COPY, 0)))
    assert only_child.explained.all(), "the copy of 2 may be the one that 3 got"
