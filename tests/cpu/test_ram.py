"""Physical memory."""

import mmap
import os

import pytest

from samepage.arch import PAGE_SIZE
from samepage.cpu.ram import Ram


def test_frames_are_views_of_the_same_bytes():
    ram = Ram(3 * PAGE_SIZE + 5)
    assert ram.n_frames == 3
    ram.frame(1)[8] = 7
    assert ram.words[WORD_OF_FRAME_1 := 512 + 1] == 7
    ram.copy(1, 2)
    assert ram.words[WORD_OF_FRAME_1 + 512] == 7
    ram.clear(2)
    assert not any(ram.frame(2))


def test_ram_of_less_than_two_frames_is_refused():
    with pytest.raises(ValueError, match="two frames"):
        Ram(PAGE_SIZE + 1)


def test_ram_in_a_memfd_is_seen_by_another_mapping_of_it():
    """What an engine needs whose guests execute in another process."""
    fd = os.memfd_create("ram")

    def shared(size):
        os.ftruncate(fd, size)
        return mmap.mmap(fd, size)

    ram = Ram(4 * PAGE_SIZE, shared)
    with mmap.mmap(fd, ram.size) as other:
        ram.words[PAGE_SIZE // 8] = 0x1122
        assert other[PAGE_SIZE : PAGE_SIZE + 2] == b"\x22\x11"
        other[2 * PAGE_SIZE] = 7
        assert ram.frame(2)[0] == 7
    os.close(fd)
