"""Mutants of the headers of real programs, through `exec`.

Whatever a header has, the file is refused with an error for the user, or becomes a program
that runs up to a limit; and the machine's invariants hold after it.
"""

import functools
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage import Machine
from samepage.errors import SamepageError
from samepage.kernel.debug import check_kernel

PROGRAMS = ("/bin/true", "/lib64/ld-linux-x86-64.so.2", "/sbin/ldconfig")
VALUES = st.one_of(
    st.sampled_from([0, 1, 0xFFF, 0x1000, 1 << 31, (1 << 47) - 4096, 1 << 47, (1 << 64) - 4096]),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 1 << 20).map(lambda page: page << 12),
)
FIELDS = st.sampled_from([(16, 2), (18, 2), (24, 8), (32, 8), (54, 2), (56, 2)])
SEGMENT_FIELDS = st.sampled_from([(0, 4), (4, 4), (8, 8), (16, 8), (32, 8), (40, 8), (48, 8)])
Mutation = tuple[int, tuple[int, int], tuple[int, int], int]
MUTATIONS = st.lists(
    st.tuples(st.integers(-1, 12), FIELDS, SEGMENT_FIELDS, VALUES), min_size=1, max_size=4
)
CUTS = st.none() | st.integers(0, 5000)


@functools.cache
def original(path: str) -> bytes:
    return Path(path).read_bytes()


@settings(max_examples=60, deadline=None)
@given(program=st.sampled_from(PROGRAMS), mutations=MUTATIONS, cut=CUTS)
def test_no_header_does_more_than_the_machine_allows(
    program: str,
    mutations: list[Mutation],
    cut: int | None,
) -> None:
    if not Path(program).exists():
        pytest.skip(f"there is no {program}")
    data = bytearray(original(program))
    phoff, phnum = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for segment, field, segment_field, value in mutations:
        # -1 is the file's header; others are the segments'.
        at, size = field if segment < 0 else segment_field
        if segment >= 0:
            at += phoff + 56 * (segment % phnum)
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    machine = Machine("32M", max_instructions=3000, timeout=20)
    with tempfile.NamedTemporaryFile(prefix="samepage-mutant-") as file:
        file.write(data[:cut])
        file.flush()
        Path(file.name).chmod(0o755)
        try:
            guest = machine.spawn([file.name], env={})
            machine.run(guest)
        except SamepageError as failure:
            error = failure.message
            assert "\n" not in error
    check_kernel(machine.kernel)
    assert not machine.kernel.stop_request.pending
