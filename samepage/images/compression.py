"""Reading a layer's bytes through gzip or zstd, with a bound on what may come out.

The kind is taken from the first bytes, not from what the manifest calls it. zstd needs the
library `zstandard`, which is imported when a layer is compressed so.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import BinaryIO, Protocol, cast

from samepage.images.limits import FREE_EXPANSION, MOST_EXPANSION, ImageError

_GZIP, _ZSTD, _XZ, _BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"
_BLOCK = 1 << 20


class Source(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end."""
        ...


class _Counted:
    """Counts what is read; the first bytes can be looked at before."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._front = b""
        self.count = 0

    def peek(self, size: int) -> bytes:
        while len(self._front) < size:
            more = self._source.read(size - len(self._front))
            if not more:
                break
            self._front += more
        return self._front

    def read(self, size: int = -1) -> bytes:
        if self._front:
            data, self._front = self._front[:size], self._front[size:]
        else:
            data = self._source.read(size if size >= 0 else _BLOCK)
        self.count += len(data)
        return data


class _Gzip:
    """One or more gzip members, whose checksums zlib compares.

    The standard library's `GzipFile` reads 8 KiB at a time before Python 3.12, at half the speed.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._input = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._member.eof:
                self._input = self._member.unused_data or self._source.read(_BLOCK)
                if not self._input.strip(b"\0"):  # gzip(1) allows zeros after the last one
                    return b""
                self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            self._input = self._input or self._source.read(_BLOCK)
            if not self._input:
                raise EOFError("it ends in the middle")
            data = self._member.decompress(self._input, size)
            self._input = self._member.unconsumed_tail
            if data:
                return data


class Expanded:
    """The bytes of a stream that may be compressed, forwards only.

    `read` raises `ImageError` for a damaged stream, and for one that expands beyond measure.
    """

    def __init__(self, source: Source) -> None:
        self._source = _Counted(source)
        self._stream = _open(self._source)
        self.count = 0
        """Bytes that were read."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end."""
        try:
            data = self._stream.read(size)
        except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise ImageError(f"a layer is damaged: {error}") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":  # the library is not imported here
                raise
            raise ImageError(f"a layer is damaged: {error}") from None
        self.count += len(data)
        if self.count > FREE_EXPANSION + MOST_EXPANSION * self._source.count:
            raise ImageError(
                f"a layer expands to more than {MOST_EXPANSION:,} times its size: "
                "that is no image but a trap"
            )
        return data


def _open(source: _Counted) -> Source:
    start = source.peek(6)
    file = cast(BinaryIO, source)
    if start.startswith(_GZIP):
        return _Gzip(source)
    if start.startswith(_XZ):
        return lzma.LZMAFile(file)
    if start.startswith(_BZIP2):
        return bz2.BZ2File(file)
    if start.startswith(_ZSTD):
        try:
            import zstandard
        except ImportError:
            raise ImageError(
                "a layer is compressed with zstd: pip install 'samepage[images]'"
            ) from None
        return cast(Source, zstandard.ZstdDecompressor().stream_reader(file, read_size=_BLOCK))
    return source
