"""Fixtures for memory management."""

import pytest
from mm_helpers import Memory

from samepage.kernel.mm.address_space import AddressSpace


@pytest.fixture
def memory() -> Memory:
    """16 MiB of RAM, a warm page cache."""
    return Memory()


@pytest.fixture
def mm(memory: Memory) -> AddressSpace:
    """An empty address space."""
    return memory.space()
