"""The parts of an image: files of a directory, or members of a tar archive, by name.

An archive is read where it lies, without unpacking; one that is compressed as a whole is first
expanded into an unnamed temporary file.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
import tempfile
from typing import BinaryIO, Protocol, cast

from samepage.images.compression import Expanded
from samepage.images.limits import MOST_DOCUMENT, MOST_ENTRIES, ImageError

_BLOCK = 1 << 20

Json = dict[str, "Value"]
Value = Json | list["Value"] | str | int | float | bool | None


class Blobs(Protocol):
    """Where an image's parts are."""

    name: str
    """For messages."""

    def __contains__(self, path: str) -> bool:
        """Whether there is such a part."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a part for reading. Raises `ImageError` if there is none."""
        ...


class DirectoryBlobs:
    """Files below a directory. Links are not followed: a layout has none."""

    def __init__(self, path: str) -> None:
        self.name = path

    def _open(self, path: str) -> int:
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise ImageError(f"{self.name}: {path!r} is no part of an image")
        fd = os.open(self.name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd, above = os.open(part, flags, dir_fd=fd), fd
                os.close(above)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            found = os.open(parts[-1], flags, dir_fd=fd)
        finally:
            os.close(fd)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise ImageError(f"{self.name}/{path}: not a regular file")
        return found

    def __contains__(self, path: str) -> bool:
        return os.path.isfile(os.path.join(self.name, path))

    def open(self, path: str) -> BinaryIO:
        try:
            return open(self._open(path), "rb", buffering=0)
        except OSError as error:
            raise ImageError(f"{self.name}/{path}: {error.strerror}") from None


class ArchiveBlobs:
    """Members of a tar archive."""

    def __init__(self, path: str) -> None:
        """Raises `ImageError` if it is no tar archive."""
        self.name = path
        try:
            # Both stay open as long as the image is read.
            self._file = _plain(open(path, "rb", buffering=0))  # noqa: SIM115
            self._archive = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115
            self._members: dict[str, tarfile.TarInfo] = {}
            for member in self._archive:
                self._members[os.path.normpath(member.name)] = member
                if len(self._members) > MOST_ENTRIES:
                    raise ImageError(f"{path}: more than {MOST_ENTRIES:,} files")
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise ImageError(f"{path}: not an archive of an image: {error}") from None
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror or error}") from None

    def whole(self) -> BinaryIO:
        """The archive itself from its start, expanded."""
        self._file.seek(0)
        return self._file

    def __contains__(self, path: str) -> bool:
        return os.path.normpath(path) in self._members

    def open(self, path: str) -> BinaryIO:
        member = self._members.get(os.path.normpath(path))
        for _ in range(8):  # docker save of old wrote a layer that two images share as a link
            if member is None or not member.issym():
                break
            target = os.path.join(os.path.dirname(member.name), member.linkname)
            member = self._members.get(os.path.normpath(target))
        if member is not None and member.islnk():
            member = self._members.get(os.path.normpath(member.linkname))
        if member is None or not member.isreg():
            raise ImageError(f"{self.name}: has no file {path!r}")
        found = self._archive.extractfile(member)
        assert found is not None
        return cast(BinaryIO, found)


def _plain(file: BinaryIO) -> BinaryIO:
    """The archive itself, or its bytes in a temporary file if they are compressed."""
    start = file.read(512)
    file.seek(0)
    if start[257:262] == b"ustar" or len(start) < 512:
        return file
    expanded = Expanded(file)
    temporary = cast(BinaryIO, tempfile.TemporaryFile(prefix="samepage-"))  # noqa: SIM115
    while data := expanded.read(_BLOCK):
        temporary.write(data)
    temporary.seek(0)
    return temporary


def read_json(blobs: Blobs, path: str) -> Value:
    """A part that is a JSON document. Raises `ImageError` if it is none, or far too large."""
    with blobs.open(path) as file:
        data = file.read(MOST_DOCUMENT + 1)
    return parse_json(data, f"{blobs.name}: {path}")


def parse_json(data: bytes, what: str) -> Value:
    """Parse a document. Raises `ImageError`; `what` names it."""
    if len(data) > MOST_DOCUMENT:
        raise ImageError(f"{what}: more than {MOST_DOCUMENT >> 20} MiB for a document")
    try:
        return cast(Value, json.loads(data))
    except (ValueError, RecursionError):
        raise ImageError(f"{what}: not a JSON document") from None


def mapping(value: Value, what: str) -> Json:
    """`value` if it is a JSON object. Raises `ImageError`."""
    if not isinstance(value, dict):
        raise ImageError(f"{what}: not a JSON object")
    return value


def sequence(value: Value, what: str) -> list[Value]:
    """`value` if it is a JSON array, [] for null. Raises `ImageError`."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ImageError(f"{what}: not a JSON array")
    return value


def text(value: Value, what: str) -> str:
    """`value` if it is a string. Raises `ImageError`."""
    if not isinstance(value, str):
        raise ImageError(f"{what}: not a string")
    return value
