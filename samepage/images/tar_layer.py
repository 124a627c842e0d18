"""Reading a layer that is a tar archive: once, forwards, with each file hashed as it passes.

Only names and attributes are kept in memory. Contents go to the store if the reader asks for
them: all of them to run programs, else just what the linker looks at.

`tarfile` parses the archive (ustar, GNU and pax headers, sparse files). It reads whole extended
headers into memory, of whatever size they claim to be, so the stream below it refuses to read
that much at once.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable
from typing import BinaryIO, cast

from samepage.images.compression import Expanded, Source
from samepage.images.layer import Content, Entry, Layer, normal_path
from samepage.images.limits import MOST_BYTES, MOST_ENTRIES, MOST_HEADER, ImageError
from samepage.images.store import Store

_CHUNK = 1 << 20
_XATTR = "SCHILY.xattr."
_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}

Keep = Callable[[str, bytes], bool]
"""Whether to keep a file's bytes, by its path and its first bytes."""


class _Forward:
    """A file for `tarfile` over a stream that only goes forwards.

    `tarfile` looks at the last byte of what it has skipped, so that one byte is kept.
    """

    def __init__(self, stream: Expanded, digest: hashlib._Hash) -> None:
        self._stream = stream
        self._digest = digest
        self._at = 0
        self._last = b""
        self._again = False

    def tell(self) -> int:
        return self._at - self._again

    def seek(self, offset: int) -> int:
        if offset == self._at - 1 and self._last:
            self._again = True
            return offset
        self._again = False
        if offset < self._at:
            raise tarfile.ReadError("an archive that goes backwards")
        while self._at < offset:
            if not self._take(min(offset - self._at, _CHUNK)):
                break
        return self._at

    def read(self, size: int) -> bytes:
        if size > max(MOST_HEADER, _CHUNK):
            raise ImageError(f"a layer has a header of {size:,} bytes")
        parts = []
        if self._again and size > 0:
            self._again = False
            parts.append(self._last)
            size -= 1
        while size > 0:
            data = self._take(size)
            if not data:
                break
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if data:
            self._digest.update(data)
            self._at += len(data)
            self._last = data[-1:]
        return data

    def drain(self) -> None:
        """Read on to the end, for the digest of the whole."""
        while self._take(_CHUNK):
            pass


def read_tar_layer(
    source: Source, layer: Layer, store: Store, keep: Keep, diff_id: str | None
) -> str:
    """Read a layer's archive into `layer`; return the digest of its bytes, uncompressed.

    `diff_id` is the digest that its bytes, uncompressed, must have ("sha256:..."), None if the
    image states none. Raises `ImageError` if it has another, or is damaged or hostile.
    """
    digest = hashlib.sha256()
    stream = _Forward(Expanded(source), digest)
    total = 0
    try:
        archive = tarfile.open(  # noqa: SIM115  # holds nothing but the stream
            fileobj=cast(BinaryIO, stream), mode="r:"
        )
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            total += max(member.size, 0)
            if total > MOST_BYTES:
                raise ImageError(f"a layer has more than {MOST_BYTES >> 30} GiB of files")
            if len(layer.entries) >= MOST_ENTRIES:
                raise ImageError(f"a layer has more than {MOST_ENTRIES:,} names")
            _add(archive, member, layer, store, keep)
    except tarfile.ReadError as error:
        # An archive without a single block is an empty layer.
        if stream.tell() or str(error) != "empty file":
            raise ImageError(f"a layer is damaged: {error}") from None
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ImageError(f"a layer is damaged: {error}") from None
    stream.drain()
    found = f"sha256:{digest.hexdigest()}"
    if diff_id is not None and found != diff_id:
        raise ImageError(f"a layer is damaged: its content is not that of {diff_id}")
    return found


def _add(
    archive: tarfile.TarFile, member: tarfile.TarInfo, layer: Layer, store: Store, keep: Keep
) -> None:
    path = normal_path(member.name)
    if member.islnk():
        target = layer.entries.get(normal_path(member.linkname))
        if target is None or target.content is None:
            raise ImageError(f"{path!r} is a hard link to {member.linkname!r}, no file here")
        layer.entries[path] = target
        return
    kind = stat.S_IFREG if member.isreg() else _TYPES.get(member.type)
    if kind is None:
        raise ImageError(f"{path!r} is of a kind that layers do not have ({member.type!r})")
    attributes = {
        name.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
        for name, value in member.pax_headers.items()
        if name.startswith(_XATTR)
    }
    entry = Entry(
        mode=kind | stat.S_IMODE(member.mode),
        uid=member.uid,
        gid=member.gid,
        mtime=int(member.mtime),
        attributes=attributes or None,
    )
    if member.issym():
        entry.target = member.linkname
    elif member.isreg():
        entry.content = _content(archive, member, path, store, keep)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry.rdev = os.makedev(member.devmajor, member.devminor)
    if path or entry.is_directory:
        layer.add(path, entry)


def _content(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, store: Store, keep: Keep
) -> Content:
    """Hash a file, and copy it to the store if it is to be kept."""
    reader = archive.extractfile(member)
    assert reader is not None
    data = reader.read(_CHUNK)
    kept, fd = None, -1
    if keep(path, data[:64]):
        fd, kept = store.create()
    digest, size = hashlib.sha256(), 0
    try:
        while data:
            digest.update(data)
            size += len(data)
            if fd >= 0:
                os.write(fd, data)
            data = reader.read(_CHUNK)
    except OSError as error:
        raise ImageError(f"cannot keep {path!r}: {error.strerror}") from None
    finally:
        if fd >= 0:
            os.close(fd)
    if size != member.size:
        raise ImageError(f"{path!r} ends in the middle of the archive")
    return Content(size, kept, digest.digest())
