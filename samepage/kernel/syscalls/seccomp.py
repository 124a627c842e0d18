"""System calls by which a thread restricts its system calls."""

from __future__ import annotations

import errno
import struct

from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import get_array, get_struct, get_u32
from samepage.kernel.process.seccomp import install, synchronize
from samepage.kernel.process.seccomp_filter import (
    MAX_INSTRUCTIONS,
    Action,
    Instruction,
    Seccomp,
    check,
)
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import U32, syscall

_SET_MODE_STRICT, _SET_MODE_FILTER, _GET_ACTION_AVAIL = 0, 1, 2
_MODE_STRICT, _MODE_FILTER = 1, 2
_TSYNC, _LOG, _SPEC_ALLOW, _TSYNC_ESRCH = 1, 2, 4, 0x10
_MAX_TOTAL = (1 << 18) // 8
"""MAX_INSNS_PER_PATH: of all filters of a thread, each counted with 4 more."""
_INSTRUCTION = struct.Struct("<HBBI")


@syscall(Sys.SECCOMP)
def sys_seccomp(task: Task, operation: U32, flags: U32, argument: int) -> int:
    """`seccomp(2)`; without listeners, as kernels before 5.0."""
    if operation == _SET_MODE_STRICT:
        if flags or argument:
            raise SysError(errno.EINVAL)
        return _set_strict(task)
    if operation == _SET_MODE_FILTER:
        return _set_filter(task, flags, argument)
    if operation == _GET_ACTION_AVAIL and not flags:
        action = get_u32(task.mm, argument)
        if action == Action.USER_NOTIF or action not in Action.__members__.values():
            raise SysError(errno.EOPNOTSUPP)
        return 0
    raise SysError(errno.EINVAL)


def set_mode(task: Task, mode: int, argument: int) -> int:
    """`prctl(PR_SET_SECCOMP)`."""
    if mode == _MODE_STRICT:
        return _set_strict(task)
    if mode == _MODE_FILTER:
        return _set_filter(task, 0, argument)
    raise SysError(errno.EINVAL)


def _set_strict(task: Task) -> int:
    if task.seccomp is not None and task.seccomp.mode != _MODE_STRICT:
        raise SysError(errno.EINVAL)
    task.seccomp = Seccomp()
    return 0


def _set_filter(task: Task, flags: int, address: int) -> int:
    """`seccomp_set_mode_filter`."""
    if flags & ~(_TSYNC | _LOG | _SPEC_ALLOW | _TSYNC_ESRCH):
        raise SysError(errno.EINVAL)
    length, where = get_struct(task.mm, address, "<HxxxxxxQ")
    if not 0 < length <= MAX_INSTRUCTIONS:
        raise SysError(errno.EINVAL)
    if not task.process.no_new_privs and task.process.cred.euid:
        raise SysError(errno.EACCES)
    if not where:
        raise SysError(errno.EINVAL)
    instructions = get_array(task.mm, where, _INSTRUCTION, length)
    program = check([Instruction(*fields) for fields in instructions])
    old = task.seccomp
    if old is not None and old.mode != _MODE_FILTER:
        raise SysError(errno.EINVAL)
    if length + sum(len(filter_) + 4 for filter_ in (old.filters if old else ())) > _MAX_TOTAL:
        raise SysError(errno.ENOMEM)
    install(task, program)
    if flags & _TSYNC:
        other = synchronize(task.process, task)
        if other:
            task.seccomp = old
            if flags & _TSYNC_ESRCH:
                raise SysError(errno.ESRCH)
            return other
    return 0
