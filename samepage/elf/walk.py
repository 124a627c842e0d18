"""The dynamic objects among files: of directories all below them, of wheels all inside.

A wheel is a zip archive, and its libraries are read where they are. Other archives are no
files that a program loads; they are refused with what to do.
"""

import os
import stat
import zipfile
from collections.abc import Iterator

from samepage.elf.header import ElfError
from samepage.elf.object import DynamicObject
from samepage.errors import SamepageError

_ARCHIVES = {
    b"!<arch>\ndebian": "a Debian package: unpack it with dpkg-deb -x, and give the directory",
    b"!<arch>\n": "an archive for static linking, which no process loads",
    b"!<thin>\n": "an archive for static linking, which no process loads",
    b"\xed\xab\xee\xdb": "an RPM package: unpack it, and give the directory",
    b"\x1f\x8b": "a compressed archive: unpack it, and give the directory",
    b"\xfd7zXZ": "a compressed archive: unpack it, and give the directory",
}


def find_files(
    path: str, parsed: dict[tuple[int, int], DynamicObject] | None = None
) -> Iterator[str]:
    """The file `path`, or the dynamic objects below a directory: by path, each file once.

    What is read of them to know is added to `parsed`, by device and inode. Raises
    `SamepageError` for a directory without any.
    """
    if not os.path.isdir(path):
        yield path
        return
    seen: set[tuple[int, int]] = set()
    for directory, subdirectories, names in os.walk(path):
        subdirectories.sort()
        for name in sorted(names):
            file = os.path.join(directory, name)
            try:
                status = os.stat(file)
                identity = status.st_dev, status.st_ino
                if identity in seen or not stat.S_ISREG(status.st_mode):
                    continue
                found = DynamicObject.open(file)
            except (OSError, ElfError):
                continue
            if not len(found.dynamic.entries):
                continue
            if parsed is not None:
                parsed[identity] = found
            seen.add(identity)
            yield file
    if not seen:
        raise SamepageError(f"{path}: no program or library below it")


def open_objects(path: str) -> Iterator[DynamicObject]:
    """The dynamic objects that an argument names.

    Raises `SamepageError` for a file that is none and has none in it.
    """
    if os.path.isdir(path):
        for file in find_files(path):
            yield DynamicObject.open(file)
        return
    try:
        # A FIFO has no bytes, and is not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            start = os.read(fd, 16)
        finally:
            os.close(fd)
    except OSError as error:
        raise SamepageError(f"{path}: {error.strerror}") from None
    if start.startswith(b"PK\x03\x04"):
        yield from _in_wheel(path)
        return
    for magic, reason in _ARCHIVES.items():
        if start.startswith(magic):
            raise SamepageError(f"{path}: {reason}")
    found = DynamicObject.open(path)
    if not len(found.dynamic.entries):
        raise SamepageError(f"{path}: not a dynamic object")
    yield found


def _in_wheel(path: str) -> Iterator[DynamicObject]:
    is_empty = True
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                with archive.open(name) as member:
                    if member.read(4) != b"\x7fELF":
                        continue
                found = DynamicObject.from_bytes(archive.read(name), f"{path}:{name}")
                if len(found.dynamic.entries):
                    is_empty = False
                    yield found
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise SamepageError(f"{path}: {error}") from None
    if is_empty:
        raise SamepageError(f"{path}: no library in it")
