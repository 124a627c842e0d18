"""A directory of files that changes as a whole.

A reader may have the directory open while it is written again (a report over a capture that a
timer repeats), and a writer may be killed at any instant, or the disk be full. So:

1. The writer fills a temporary sibling directory, `.NAME.XXXX.tmp`, and flushes each file
   and the directory itself to the disk.
2. It then puts the new directory in the place of the old one by one system call:
   `renameat2` with RENAME_EXCHANGE if there is an old one, else with RENAME_NOREPLACE. What it
   displaced is removed afterwards.
3. The writer holds a lock (`flock`) on its temporary directory. The next writer removes
   each temporary sibling whose lock it can take: its writer was killed.
4. A reader opens the directory once, opens all files relative to it, and only then reads:
   what it has open stays whole though the names are gone. If a file is not there and
   the directory's name leads to another one by now, it starts again.

A file system without RENAME_EXCHANGE (NFS, for one) gets two plain renames, by way of
`.NAME.old`; a writer killed between the two leaves the old snapshot under that name, where
readers look when there is nothing at NAME, and the next writer puts it back.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from typing import IO

from samepage.abi.fcntl import AT_FDCWD, RENAME_EXCHANGE, RENAME_NOREPLACE
from samepage.errors import SamepageError

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def replacing(directory: str | os.PathLike[str], names: Sequence[str]) -> Iterator[str]:
    """Give a new directory that takes the place of `directory` when the block ends without error.

    `names` are the files that may be in it: one that holds any other is not replaced. Raises
    `SamepageError` if it cannot be written; the old one is then untouched.
    """
    target = os.path.realpath(directory)
    try:
        _refuse_other_contents(target, names)
        _remove_leftovers(target)
        with _temporary_sibling(target) as temporary:
            yield temporary
            _fsync(temporary)
            _swap(temporary, target)
            _fsync(os.path.dirname(target))
    except OSError as error:
        raise SamepageError(
            f"cannot write snapshot {os.fspath(directory)}: {error.strerror or error}"
        ) from error


@contextlib.contextmanager
def reading(
    directory: str | os.PathLike[str], names: Sequence[str], optional: Collection[str] = ()
) -> Iterator[dict[str, IO[bytes]]]:
    """Open the files of these names of one and the same directory; the first one marks it.

    Those that are `optional` may be missing. Raises `SamepageError` if the directory or another one
    is missing, or cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        target, shown = os.path.realpath(directory), os.fspath(directory)
        yield _open_files(target, shown, names, optional, stack)


def _refuse_other_contents(target: str, names: Sequence[str]) -> None:
    """A directory of a user's own files must not be swapped away and removed."""
    try:
        entries = os.listdir(target)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise SamepageError(f"cannot write snapshot {target}: it is a file") from None
    foreign = sorted(set(entries) - set(names))
    if foreign:
        raise SamepageError(
            f"cannot write snapshot {target}: it holds {foreign[0]!r}, which is not part of a "
            "snapshot: choose another directory"
        )


@contextlib.contextmanager
def _temporary_sibling(target: str) -> Iterator[str]:
    """Make and lock a new directory beside `target`; remove what is there at the end."""
    parent, name = os.path.split(target)
    while True:
        path = os.path.join(parent, f".{name}.{secrets.token_hex(8)}.tmp")
        pathlib.Path(path).mkdir()
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another writer took the new, not yet locked directory for a leftover
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_same(lock, path):
            break
        os.close(lock)
    try:
        yield path
    finally:
        # Either the half-written new one, or the old one that was swapped out.
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _remove_leftovers(target: str) -> None:
    parent, name = os.path.split(target)
    with os.scandir(parent) as entries:
        stale = [
            entry.path
            for entry in entries
            if entry.name.startswith(f".{name}.") and entry.name.endswith(".tmp")
        ]
    for path in stale:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(lock, path):
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # its writer lives
        finally:
            os.close(lock)


def _swap(temporary: str, target: str) -> None:
    """Put `temporary` in the place of `target`; what was there is then at `temporary`."""
    while True:
        try:
            _renameat2(temporary, target, RENAME_EXCHANGE)
            break
        except FileNotFoundError:
            pass  # there is none yet
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            _swap_by_two_renames(temporary, target)
            break
        try:
            _renameat2(temporary, target, RENAME_NOREPLACE)
            break
        except FileExistsError:
            continue  # another writer was first: exchange with it
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            _swap_by_two_renames(temporary, target)
            break


def _swap_by_two_renames(temporary: str, target: str) -> None:
    parent, old = os.path.dirname(target), _old_name(target)
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one writer at a time, all of one directory
        if os.path.exists(target):
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        # else a killed writer left the old one at `old`: it stays until the new one is there
        os.replace(temporary, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


def _renameat2(source: str, target: str, flags: int) -> None:
    """Call renameat2(2), which Python does not have; raise `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        call = libc.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, "no renameat2 in the C library") from None
    names = os.fsencode(source), os.fsencode(target)
    if call(AT_FDCWD, names[0], AT_FDCWD, names[1], ctypes.c_uint(flags)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def _old_name(target: str) -> str:
    parent, name = os.path.split(target)
    return os.path.join(parent, f".{name}.old")


def _fsync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _open_files(
    target: str,
    shown: str,
    names: Sequence[str],
    optional: Collection[str],
    stack: contextlib.ExitStack,
) -> dict[str, IO[bytes]]:
    while True:
        try:
            with contextlib.ExitStack() as attempt:
                directory = _open_directory(target, shown, attempt)
                try:
                    there = set(os.listdir(directory))
                    wanted = [name for name in names if name in there or name not in optional]
                    files = {name: _open_file(directory, name, attempt) for name in wanted}
                except FileNotFoundError as error:
                    if not _is_same(directory, target) and os.path.exists(target):
                        continue  # swapped out and removed under our hands
                    if error.filename == names[0]:
                        raise SamepageError(f"{shown}: not a snapshot (no {names[0]})") from None
                    raise SamepageError(f"{shown}: {error.filename} is missing") from None
                stack.push(attempt.pop_all())
                return files
        except OSError as error:
            name = error.filename if error.filename in names else ""
            raise SamepageError(
                f"cannot read snapshot {os.path.join(shown, name) if name else shown}: "
                f"{error.strerror or error}"
            ) from error


def _open_directory(target: str, shown: str, stack: contextlib.ExitStack) -> int:
    for path in (target, _old_name(target)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise SamepageError(
                f"{shown}: not a snapshot (a snapshot is a directory of Parquet files)"
            ) from None
        stack.callback(os.close, descriptor)
        return descriptor
    raise SamepageError(f"{shown}: no such snapshot")


def _open_file(directory: int, name: str, stack: contextlib.ExitStack) -> IO[bytes]:
    # O_NONBLOCK: a pipe in its place must not block us for ever
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)
    return stack.enter_context(os.fdopen(descriptor, "rb"))
