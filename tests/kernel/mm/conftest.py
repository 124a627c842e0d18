"""Fixtures for memory management."""

import pytest

from samepage.kernel.mm.address_space import AddressSpace
from tests.kernel.mm.mm_helpers import Memory


@pytest.fixture
def memory() -> Memory:
    """16 MiB of RAM, a warm page cache."""
    return Memory()


@pytest.fixture
def mm(memory: Memory) -> AddressSpace:
    """An empty address space."""
    return memory.space()
