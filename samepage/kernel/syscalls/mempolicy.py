"""System calls on NUMA policies. The machine has one node, so that every policy has the same
effect; what a thread has set is checked and reported as `mm/mempolicy.c` does it.

`mbind` is not implemented: it would give VMAs a policy, by which they split and merge.
"""

from __future__ import annotations

import errno

from samepage.arch import PAGE_SIZE, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import clear_user, copy_from_user, copy_to_user, get_bitmap, put_u32
from samepage.kernel.process.task import MemoryPolicy, Task
from samepage.kernel.syscalls.table import I32, syscall

_DEFAULT, _PREFERRED, _BIND, _INTERLEAVE, _LOCAL, _PREFERRED_MANY, _WEIGHTED = range(7)
_STATIC_NODES, _RELATIVE_NODES, _NUMA_BALANCING = 1 << 15, 1 << 14, 1 << 13
_MODE_FLAGS = _STATIC_NODES | _RELATIVE_NODES | _NUMA_BALANCING
_F_NODE, _F_ADDR, _F_MEMS_ALLOWED = 1, 2, 4
_NODES = 0b1
"""The nodes that have memory, as a mask."""
_MAX_NODES = 1024
_WORD = 8


@syscall(Sys.SET_MEMPOLICY)
def sys_set_mempolicy(task: Task, mode: I32, mask: int, max_node: int) -> int:
    """`set_mempolicy(2)`."""
    flags, mode = mode & _MODE_FLAGS, mode & ~_MODE_FLAGS
    if not _DEFAULT <= mode <= _WEIGHTED:
        raise SysError(errno.EINVAL)
    if flags & _STATIC_NODES and flags & _RELATIVE_NODES:
        raise SysError(errno.EINVAL)
    if flags & _NUMA_BALANCING and mode not in (_BIND, _PREFERRED_MANY):
        raise SysError(errno.EINVAL)
    task.memory_policy = _new_policy(mode, flags, _read_mask(task, mask, max_node))
    return 0


def _new_policy(mode: int, flags: int, nodes: int) -> MemoryPolicy | None:
    """What a mode may ask for (`mpol_new`, `mpol_set_nodemask`). Raises `SysError(EINVAL)`."""
    relocates = flags & (_STATIC_NODES | _RELATIVE_NODES)
    if mode == _DEFAULT:
        if nodes:
            raise SysError(errno.EINVAL)
        return None
    if mode == _PREFERRED and not nodes and not relocates:
        mode = _LOCAL
    if (mode == _LOCAL) == bool(nodes) or (mode == _LOCAL and relocates):
        raise SysError(errno.EINVAL)
    effective = _NODES if flags & _RELATIVE_NODES else nodes & _NODES
    if mode != _LOCAL and not effective:
        raise SysError(errno.EINVAL)
    return MemoryPolicy(mode | flags, nodes if relocates else effective)


def _read_mask(task: Task, address: int, max_node: int) -> int:
    """`get_nodes`: a set of nodes, of `max_node` - 1 bits."""
    bits = (max_node - 1) & (1 << 64) - 1
    if not bits or not address:
        return 0
    if bits > PAGE_SIZE * 8:
        raise SysError(errno.EINVAL)
    words = (bits + 63) // 64
    mask = get_bitmap(task.mm, address, words * _WORD)
    mask &= (1 << bits) - 1
    if mask >> _MAX_NODES:
        raise SysError(errno.EINVAL)
    return mask


def _write_mask(task: Task, address: int, max_node: int, nodes: int) -> None:
    """`copy_nodes_to_user`: the kernel's sets have one word, the rest is cleared."""
    size = (max_node - 1 + 63) // 64 * _WORD
    if size > _WORD:
        if size > PAGE_SIZE:
            raise SysError(errno.EINVAL)
        clear_user(task.mm, address + _WORD, size - _WORD)
    copy_to_user(task.mm, address, nodes.to_bytes(_WORD, "little")[:size])


@syscall(Sys.GET_MEMPOLICY)
def sys_get_mempolicy(
    task: Task, mode_at: int, mask: int, max_node: int, address: int, flags: int
) -> int:
    """`get_mempolicy(2)`."""
    if (mask and not max_node) or flags & ~(_F_NODE | _F_ADDR | _F_MEMS_ALLOWED):
        raise SysError(errno.EINVAL)
    mode, nodes = _policy_at(task, address, flags)
    if mode_at:
        put_u32(task.mm, mode_at, mode)
    if mask:
        _write_mask(task, mask, max_node, nodes)
    return 0


def _policy_at(task: Task, address: int, flags: int) -> tuple[int, int]:
    """The mode or node, and the set of nodes (`do_get_mempolicy`)."""
    policy = task.memory_policy
    if flags & _F_MEMS_ALLOWED:
        if flags & (_F_NODE | _F_ADDR):
            raise SysError(errno.EINVAL)
        return 0, _NODES
    if flags & _F_ADDR:
        if task.mm.vmas.find(address) is None:
            raise SysError(errno.EFAULT)
    elif address:
        raise SysError(errno.EINVAL)
    mode, nodes = (policy.mode, policy.nodes) if policy else (_DEFAULT, 0)
    if flags & _F_NODE:
        if flags & _F_ADDR:
            copy_from_user(task.mm, address, 1)
        elif mode & ~_MODE_FLAGS not in (_INTERLEAVE, _WEIGHTED):
            raise SysError(errno.EINVAL)
        mode = 0
    return mode, nodes
