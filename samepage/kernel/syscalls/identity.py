"""The identity of a process: ids, groups, sessions, limits, priorities, prctl."""

from __future__ import annotations

import errno

from samepage.abi.capability import ALL_CAPABILITIES
from samepage.abi.prctl import Pr
from samepage.abi.signal import MAX_SIGNAL
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.context import Credentials
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user, get_struct, put_struct, put_u32
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.limits import find_process
from samepage.kernel.syscalls.processes import pack_rusage, usage_of
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.records import record, replace

_NO_CHANGE = 0xFFFF_FFFF


@syscall(Sys.GETPID)
def sys_getpid(task: Task) -> int:
    """`getpid(2)`."""
    return task.process.pid


@syscall(Sys.GETTID)
def sys_gettid(task: Task) -> int:
    """`gettid(2)`."""
    return task.tid


@syscall(Sys.GETPPID)
def sys_getppid(task: Task) -> int:
    """`getppid(2)`."""
    return task.process.ppid


@syscall(Sys.GETUID)
def sys_getuid(task: Task) -> int:
    """`getuid(2)`."""
    return int(task.process.fs.cred.uid)


@syscall(Sys.GETEUID)
def sys_geteuid(task: Task) -> int:
    """`geteuid(2)`."""
    return int(task.process.fs.cred.euid)


@syscall(Sys.GETGID)
def sys_getgid(task: Task) -> int:
    """`getgid(2)`."""
    return int(task.process.fs.cred.gid)


@syscall(Sys.GETEGID)
def sys_getegid(task: Task) -> int:
    """`getegid(2)`."""
    return int(task.process.fs.cred.egid)


@record(frozen=True)
class _Ids:
    """The ids of one kind, a user's or a group's: names of fields of `Credentials`."""

    real: str
    effective: str
    saved: str
    fs: str

    def of(self, cred: Credentials) -> tuple[int, int, int]:
        """The real, effective and saved one."""
        return getattr(cred, self.real), getattr(cred, self.effective), getattr(cred, self.saved)


_USER = _Ids("uid", "euid", "suid", "fsuid")
_GROUP = _Ids("gid", "egid", "sgid", "fsgid")


def _get_res(task: Task, ids: _Ids, addresses: tuple[int, int, int]) -> int:
    for address, value in zip(addresses, ids.of(task.process.fs.cred), strict=True):
        put_u32(task.mm, address, value)
    return 0


def _may_become(cred: Credentials, value: int, owned: tuple[int, ...]) -> None:
    """Raise `SysError(EPERM)` unless an id may be set to `value`."""
    if value != _NO_CHANGE and cred.euid and value not in owned:
        raise SysError(errno.EPERM)


def _set_res(task: Task, ids: _Ids, wanted: tuple[int, int, int]) -> int:
    """Set those of the three ids that are not _NO_CHANGE; the file system's id follows the
    effective one (`__sys_setresuid`)."""
    old = ids.of(task.process.fs.cred)
    real, effective, saved = (
        before if value == _NO_CHANGE else value for value, before in zip(wanted, old, strict=True)
    )
    changes = {ids.real: real, ids.effective: effective, ids.saved: saved, ids.fs: effective}
    task.process.fs.cred = replace(task.process.fs.cred, **changes)
    task.mm.limits = task.process.memory_limits()
    return 0


def _set_one(task: Task, ids: _Ids, value: int) -> int:
    """`__sys_setuid`: root becomes another for good."""
    if value == _NO_CHANGE:
        raise SysError(errno.EINVAL)
    cred = task.process.fs.cred
    real, _, saved = ids.of(cred)
    _may_become(cred, value, (real, saved))
    if cred.euid == 0:
        return _set_res(task, ids, (value, value, value))
    return _set_res(task, ids, (_NO_CHANGE, value, _NO_CHANGE))


def _set_real_effective(task: Task, ids: _Ids, real: int, effective: int) -> int:
    """`__sys_setreuid`: the saved id follows the effective one if the real one is set, or the
    effective one to something else than the old real one."""
    cred = task.process.fs.cred
    old = ids.of(cred)
    _may_become(cred, real, old[:2])
    _may_become(cred, effective, old)
    saved = _NO_CHANGE
    if real != _NO_CHANGE or effective not in (_NO_CHANGE, old[0]):
        saved = old[1] if effective == _NO_CHANGE else effective
    return _set_res(task, ids, (real, effective, saved))


def _set_all(task: Task, ids: _Ids, wanted: tuple[int, int, int]) -> int:
    cred = task.process.fs.cred
    for value in wanted:
        _may_become(cred, value, ids.of(cred))
    return _set_res(task, ids, wanted)


def _set_fs(task: Task, ids: _Ids, value: int) -> int:
    """Set the file system's id, if that is allowed; return the previous one in any case."""
    cred = task.process.fs.cred
    previous: int = getattr(cred, ids.fs)
    allowed = cred.euid == 0 or value in (*ids.of(cred), previous)
    if value != _NO_CHANGE and allowed:
        task.process.fs.cred = replace(cred, **{ids.fs: value})
    return previous


@syscall(Sys.GETRESUID)
def sys_getresuid(task: Task, real: int, effective: int, saved: int) -> int:
    """`getresuid(2)`."""
    return _get_res(task, _USER, (real, effective, saved))


@syscall(Sys.SETUID)
def sys_setuid(task: Task, uid: U32) -> int:
    """`setuid(2)`."""
    return _set_one(task, _USER, uid)


@syscall(Sys.SETREUID)
def sys_setreuid(task: Task, real: U32, effective: U32) -> int:
    """`setreuid(2)`."""
    return _set_real_effective(task, _USER, real, effective)


@syscall(Sys.SETRESUID)
def sys_setresuid(task: Task, real: U32, effective: U32, saved: U32) -> int:
    """`setresuid(2)`."""
    return _set_all(task, _USER, (real, effective, saved))


@syscall(Sys.SETFSUID)
def sys_setfsuid(task: Task, uid: U32) -> int:
    """`setfsuid(2)`."""
    return _set_fs(task, _USER, uid)


@syscall(Sys.GETRESGID)
def sys_getresgid(task: Task, real: int, effective: int, saved: int) -> int:
    """`getresgid(2)`."""
    return _get_res(task, _GROUP, (real, effective, saved))


@syscall(Sys.SETGID)
def sys_setgid(task: Task, gid: U32) -> int:
    """`setgid(2)`."""
    return _set_one(task, _GROUP, gid)


@syscall(Sys.SETREGID)
def sys_setregid(task: Task, real: U32, effective: U32) -> int:
    """`setregid(2)`."""
    return _set_real_effective(task, _GROUP, real, effective)


@syscall(Sys.SETRESGID)
def sys_setresgid(task: Task, real: U32, effective: U32, saved: U32) -> int:
    """`setresgid(2)`."""
    return _set_all(task, _GROUP, (real, effective, saved))


@syscall(Sys.SETFSGID)
def sys_setfsgid(task: Task, gid: U32) -> int:
    """`setfsgid(2)`."""
    return _set_fs(task, _GROUP, gid)


@syscall(Sys.GETGROUPS)
def sys_getgroups(task: Task, size: I32, address: int) -> int:
    """`getgroups(2)`."""
    groups = task.process.fs.cred.groups
    if size:
        if size < len(groups):
            raise SysError(errno.EINVAL)
        put_struct(task.mm, address, f"<{len(groups)}I", *groups)
    return len(groups)


@syscall(Sys.SETGROUPS)
def sys_setgroups(task: Task, size: I32, address: int) -> int:
    """`setgroups(2)`."""
    if task.process.fs.cred.euid:
        raise SysError(errno.EPERM)
    if not 0 <= size <= 65536:
        raise SysError(errno.EINVAL)
    groups = get_struct(task.mm, address, f"<{size}I")
    task.process.fs.cred = replace(task.process.fs.cred, groups=groups)
    return 0


@syscall(Sys.GETPGRP)
def sys_getpgrp(task: Task) -> int:
    """`getpgrp(2)`."""
    return task.process.pgid


@syscall(Sys.GETPGID)
def sys_getpgid(task: Task, pid: I32) -> int:
    """`getpgid(2)`."""
    return find_process(task, pid).pgid


@syscall(Sys.SETPGID)
def sys_setpgid(task: Task, pid: I32, pgid: I32) -> int:
    """`setpgid(2)`."""
    target = find_process(task, pid)
    if pgid < 0:
        raise SysError(errno.EINVAL)
    if target is not task.process and target.parent is not task.process:
        raise SysError(errno.ESRCH)
    if target.sid != task.process.sid or target.sid == target.pid:
        raise SysError(errno.EPERM)
    target.pgid = pgid or target.pid
    return 0


@syscall(Sys.GETSID)
def sys_getsid(task: Task, pid: I32) -> int:
    """`getsid(2)`."""
    return find_process(task, pid).sid


@syscall(Sys.SETSID)
def sys_setsid(task: Task) -> int:
    """`setsid(2)`."""
    process = task.process
    if any(p.pgid == process.pid for p in task.kernel.processes.values()):
        raise SysError(errno.EPERM)
    process.sid = process.pgid = process.pid
    return process.pid


@syscall(Sys.GETRUSAGE)
def sys_getrusage(task: Task, who: I32, address: int) -> int:
    """`getrusage(2)`; RUSAGE_THREAD reports the whole process."""
    if who not in (-1, 0, 1):
        raise SysError(errno.EINVAL)
    usage = usage_of(task.process) if who >= 0 else task.process.children_usage
    copy_to_user(task.mm, address, pack_rusage(usage))
    return 0


@syscall(Sys.CAPGET)
def sys_capget(task: Task, header: int, data: int) -> int:
    """`capget(2)`: root has all capabilities, others none."""
    version, pid = get_struct(task.mm, header, "<Ii")
    if version != 0x2008_0522:
        put_u32(task.mm, header, 0x2008_0522)
        if data:
            raise SysError(errno.EINVAL)
        return 0
    held = ALL_CAPABILITIES if find_process(task, pid).fs.cred.euid == 0 else 0
    low, high = held & 0xFFFF_FFFF, held >> 32
    if data:
        put_struct(task.mm, data, "<6I", low, low, 0, high, high, 0)
    return 0


@syscall(Sys.CAPSET)
def sys_capset(task: Task, header: int, data: int) -> int:
    """`capset(2)`: the model does not divide root's rights."""
    raise SysError(errno.EPERM)


@syscall(Sys.PRCTL)
def sys_prctl(task: Task, option: I32, argument: int, third: int) -> int:
    """`prctl(2)`, for the options that do not change how the machine works."""
    process = task.process
    if option == Pr.SET_NAME:
        raw = copy_from_user(task.mm, argument, 16).split(b"\0", 1)[0][:15]
        process.comm = raw.decode(errors="surrogateescape")
        return 0
    if option == Pr.GET_NAME:
        name = process.comm.encode(errors="surrogateescape")[:15]
        copy_to_user(task.mm, argument, name.ljust(16, b"\0"))
        return 0
    if option == Pr.GET_DUMPABLE:
        return process.dumpable
    if option == Pr.SET_DUMPABLE:
        if argument > 1:
            raise SysError(errno.EINVAL)
        process.dumpable = argument
        return 0
    if option == Pr.SET_PDEATHSIG:
        if argument > MAX_SIGNAL:
            raise SysError(errno.EINVAL)
        process.parent_death_signal = argument
        return 0
    if option in (Pr.GET_PDEATHSIG, Pr.GET_CHILD_SUBREAPER):
        reaper = option == Pr.GET_CHILD_SUBREAPER
        value = int(process.subreaper) if reaper else process.parent_death_signal
        put_u32(task.mm, argument, value)
        return 0
    if option == Pr.SET_CHILD_SUBREAPER:
        process.subreaper = bool(argument)
        return 0
    if option == Pr.SET_NO_NEW_PRIVS:
        if argument != 1:
            raise SysError(errno.EINVAL)
        process.no_new_privs = True
        return 0
    if option == Pr.GET_NO_NEW_PRIVS:
        return int(process.no_new_privs)
    if option == Pr.CAPBSET_READ:
        if argument > 40:
            raise SysError(errno.EINVAL)
        return 1
    if option == Pr.GET_TIMERSLACK:
        return 50_000
    if option == Pr.GET_SECCOMP:
        return task.seccomp.mode if task.seccomp else 0
    if option == Pr.SET_SECCOMP:
        from samepage.kernel.syscalls.seccomp import set_mode

        return set_mode(task, argument, third)
    if option in (Pr.GET_KEEPCAPS, Pr.SET_TIMERSLACK):
        return 0
    raise SysError(errno.EINVAL)


@syscall(Sys.PERSONALITY)
def sys_personality(task: Task, value: U32) -> int:
    """`personality(2)`."""
    old = task.process.personality
    if value != _NO_CHANGE:
        task.process.personality = value
    return old
