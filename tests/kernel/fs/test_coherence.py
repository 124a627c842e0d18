"""read, write and mmap show the same bytes, whatever name the file was opened by."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.abi.mman import MapFlags, Prot
from samepage.arch import PAGE_SIZE
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.mmap import do_mmap
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user
from tests.kernel.fs_helpers import NoEngine, boot

BASE = 0x10_0000_0000
RW = Prot.READ | Prot.WRITE


def mapping(vfs, file, pages, flags=MapFlags.SHARED):
    mm = AddressSpace(vfs.cache._frames, vfs.cache, NoEngine())
    flags |= MapFlags.FIXED
    do_mmap(mm, BASE, pages * PAGE_SIZE, RW, flags, file.mappable, filp=file, path="x")
    return mm


def test_a_shared_mapping_and_the_calls_agree(vfs, ctx):
    file = vfs.open(ctx, b"/big", os.O_RDWR)
    mm = mapping(vfs, file, 7)
    copy_to_user(mm, BASE + 4094, b"span")
    assert vfs.open(ctx, b"/big", os.O_RDONLY).pread(4, 4094) == b"span"
    file.pwrite(b"SPAN", 4094)
    assert copy_from_user(mm, BASE + 4094, 4) == b"SPAN"


def test_two_programs_share_the_frames_of_two_names(vfs, ctx):
    spaces = []
    for name in (b"/file", b"/hard"):
        file = vfs.open(ctx, name, os.O_RDONLY)
        spaces.append(mapping(vfs, file, 1, MapFlags.PRIVATE))
        copy_from_user(spaces[-1], BASE, 1)
    entries = [space.table.get(BASE) for space in spaces]
    assert entries[0] >> 12 == entries[1] >> 12


def test_a_mapping_made_before_the_copy_up_keeps_the_old_content(vfs, ctx):
    mm = mapping(vfs, vfs.open(ctx, b"/file", os.O_RDONLY), 1, MapFlags.PRIVATE)
    vfs.open(ctx, b"/file", os.O_WRONLY | os.O_TRUNC).write(b"new")
    assert copy_from_user(mm, BASE, 7) == b"content"
    later = mapping(vfs, vfs.open(ctx, b"/file", os.O_RDONLY), 1, MapFlags.PRIVATE)
    assert copy_from_user(later, BASE, 4) == b"new\0"


@pytest.mark.parametrize("last", ["name", "file", "mapping"])
@pytest.mark.parametrize("name", [b"/dir/inner", b"/new"])
def test_a_removed_file_takes_no_memory_after_its_last_user(vfs, ctx, name, last):
    before = vfs.cache._frames.n_used
    file = vfs.open(ctx, name, os.O_RDWR | os.O_CREAT).get()
    file.write(b"x" * PAGE_SIZE)
    mm = mapping(vfs, file, 1)
    assert copy_from_user(mm, BASE, 1) == b"x"
    steps = {"name": lambda: vfs.unlink(ctx, name), "file": file.put, "mapping": mm.destroy}
    final = steps.pop(last)
    for step in steps.values():
        step()
        assert vfs.cache.owner
    final()
    assert not vfs.cache.owner
    assert not vfs.cache.written
    assert vfs.cache._frames.n_used == before


@pytest.mark.parametrize("fresh", [True, False])
def test_random_changes_leave_what_a_bytearray_has(tmp_path_factory, fresh):
    root = tmp_path_factory.mktemp("root")
    start = bytes(range(256)) * 80
    (root / "file").write_bytes(start)
    places = st.integers(0, 6 * PAGE_SIZE)
    steps = st.one_of(
        st.tuples(st.just("write"), places, st.binary(max_size=50).map(lambda b: b * 200)),
        st.tuples(st.just("truncate"), places, st.none()),
        st.tuples(st.just("map"), places, st.binary(min_size=1, max_size=50)),
        st.tuples(st.just("punch"), places, st.integers(1, 3 * PAGE_SIZE)),
    )

    @settings(max_examples=25, deadline=None)
    @given(st.lists(steps, max_size=12))
    def check(steps):
        vfs = boot(root)
        ctx = vfs.context()
        name, flags = (b"/new", os.O_CREAT) if fresh else (b"/file", 0)
        model = bytearray() if fresh else bytearray(start)
        file = vfs.open(ctx, name, flags | os.O_RDWR, 0o600)
        mm = mapping(vfs, file, 12)
        for step, at, value in steps:
            if step == "write" and value:
                model.extend(bytes(max(0, at + len(value) - len(model))))
                model[at : at + len(value)] = value
                file.pwrite(value, at)
            elif step == "truncate":
                del model[at:]
                model.extend(bytes(at - len(model)))
                file.ftruncate(at)
            elif step == "map" and at + len(value) <= len(model):
                model[at : at + len(value)] = value
                copy_to_user(mm, BASE + at, value)
            elif step == "punch":
                end = min(at + value, len(model))
                model[at:end] = bytes(max(end - at, 0))
                file.fallocate(3, at, value)
            assert file.fstat().size == len(model)
            assert file.pread(1 << 20, 0) == model
            if model:
                assert copy_from_user(mm, BASE, len(model)) == model

    check()
    assert (root / "file").read_bytes() == start
