"""Writing a file as a whole: a reader sees the old one or the new one, never a part.

The text goes to a temporary file in the same directory, is flushed to the disk, and takes
the name by rename(2). What is not a regular file (a pipe, /dev/stdout) cannot be replaced,
so it is written directly.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import TextIO

from samepage.errors import SamepageError


@contextlib.contextmanager
def replacing(path: str) -> Iterator[TextIO]:
    """Give a stream whose content is at `path` when the block has ended without error.

    Raises `SamepageError` if it cannot be written; `path` is then as it was before. A
    closed pipe stays a `BrokenPipeError`.
    """
    try:
        if _is_special(path):
            with open(path, "w", encoding="utf-8") as stream:
                yield stream
            return
        target = os.path.realpath(path)  # a link stays, and its file is replaced
        parent, name = os.path.split(target)
        temporary = os.path.join(parent, f".{name}.{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "x", encoding="utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SamepageError(f"cannot write {path}: {error.strerror or error}") from error


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
