"""A process's table of file descriptors (`struct files_struct`)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    F = TypeVar("F", bound=OpenFile)

DEFAULT_LIMIT = 1024


class FdTable:
    """Descriptor -> open file, with the close-on-exec flags.

    `limit` is RLIMIT_NOFILE's soft limit. `users` counts the tasks that share the table
    (CLONE_FILES). Invariants: each entry holds one reference of its file; `cloexec` is a
    subset of the descriptors.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self.users = 1
        self.cloexec: set[int] = set()
        self._files: dict[int, OpenFile] = {}
        self._lowest_free = 0

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, fd: int) -> bool:
        return fd in self._files

    def files(self) -> Iterable[OpenFile]:
        """The open file of each descriptor."""
        return self._files.values()

    def get(self, fd: int) -> OpenFile:
        """The open file, if it can be used as one (`fget`). Raises `SysError(EBADF)`, also
        for a descriptor opened with O_PATH."""
        file = self._files.get(fd)
        if file is None or file.flags & os.O_PATH:
            raise SysError(errno.EBADF)
        return file

    def get_as(self, fd: int, kind: type[F], error: int) -> F:
        """The open file of a descriptor that must be of one kind, as for the calls that Linux
        has for one kind only and that compare `f_op` with it.

        Raises `SysError`: EBADF as `get`, else the errno `error`.
        """
        file = self.get(fd)
        if not isinstance(file, kind):
            raise SysError(error)
        return file

    def get_raw(self, fd: int) -> OpenFile:
        """The open file, or the place that O_PATH opened (`fget_raw`), for the calls that
        need no more. Raises `SysError(EBADF)`."""
        file = self._files.get(fd)
        if file is None:
            raise SysError(errno.EBADF)
        return file

    def install(self, file: OpenFile, cloexec: bool = False, lowest: int = 0) -> int:
        """Put a file into the lowest free descriptor from `lowest` on, and return it.

        Raises `SysError`: EMFILE if none is free below the limit, EINVAL if `lowest` is
        not below it.
        """
        if not 0 <= lowest < self.limit and lowest:
            raise SysError(errno.EINVAL)
        fd = max(lowest, self._lowest_free)
        while fd in self._files:
            fd += 1
        if fd >= self.limit:
            raise SysError(errno.EMFILE)
        if lowest <= self._lowest_free:
            self._lowest_free = fd + 1
        self._set(fd, file, cloexec)
        return fd

    def _set(self, fd: int, file: OpenFile, cloexec: bool) -> None:
        self._files[fd] = file.get()
        if cloexec:
            self.cloexec.add(fd)
        else:
            self.cloexec.discard(fd)

    def close(self, fd: int) -> None:
        """Remove a descriptor, and the process's record locks on its file.

        Raises `SysError(EBADF)`.
        """
        file = self.get_raw(fd)
        del self._files[fd]
        self.cloexec.discard(fd)
        self._lowest_free = min(self._lowest_free, fd)
        if file.inode.locks is not None:
            file.inode.locks.release(self)
        file.put()

    def close_range(self, first: int, last: int) -> None:
        """Close all descriptors from `first` to `last`."""
        for fd in [fd for fd in self if first <= fd <= last]:
            self.close(fd)

    def close_all(self) -> None:
        """Close everything, as exit does."""
        self.close_range(0, max(self._files, default=0))

    def dup(self, fd: int, cloexec: bool = False, lowest: int = 0) -> int:
        """`dup` and F_DUPFD. Raises `SysError` with EBADF, EMFILE or EINVAL."""
        return self.install(self.get_raw(fd), cloexec, lowest)

    def dup2(self, fd: int, target: int, cloexec: bool = False) -> int:
        """Make `target` refer to the file of `fd`; what it was is closed.

        `target` equal to `fd` changes nothing (dup3 calls that EINVAL; the caller checks).
        Raises `SysError(EBADF)`.
        """
        file = self.get_raw(fd)
        if not 0 <= target < self.limit:
            raise SysError(errno.EBADF)
        if fd == target:
            return target
        file.get()  # closing `target` must not release it
        if target in self._files:
            self.close(target)
        self._set(target, file, cloexec)
        file.put()
        return target

    def get_cloexec(self, fd: int) -> bool:
        """FD_CLOEXEC. Raises `SysError(EBADF)`."""
        self.get_raw(fd)
        return fd in self.cloexec

    def set_cloexec(self, fd: int, on: bool) -> None:
        """Set or clear FD_CLOEXEC. Raises `SysError(EBADF)`."""
        self.get_raw(fd)
        if on:
            self.cloexec.add(fd)
        else:
            self.cloexec.discard(fd)

    def close_on_exec(self) -> None:
        """Close what is marked so (`do_close_on_exec`)."""
        for fd in sorted(self.cloexec):
            self.close(fd)

    def copy(self) -> FdTable:
        """A child's table: the same open files (`dup_fd`)."""
        child = FdTable(self.limit)
        child._files = {fd: file.get() for fd, file in self._files.items()}
        child.cloexec = set(self.cloexec)
        child._lowest_free = self._lowest_free
        return child

    @property
    def size(self) -> int:
        """The table's length as /proc/PID/status shows it: a power of two from 64 on
        (`FDSize`); new processes start with 256 in practice."""
        return max(256, 1 << max(self._files, default=0).bit_length())
