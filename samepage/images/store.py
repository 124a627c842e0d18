"""Where the contents of an image's files are kept while it is looked at.

A file goes under a number: no name of an archive ever becomes a path of the host. The directory
is the user's alone, and is removed at the end. After a kill it stays, unlocked; the next store
in the same place removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from types import TracebackType

from samepage.errors import SamepageError

_PREFIX = "samepage-image-"
_LOCK = "lock"


class Store:
    """A directory of numbered files; a context manager, which removes it."""

    def __init__(self) -> None:
        """Raises `SamepageError` if no temporary directory can be made."""
        place = tempfile.gettempdir()
        _remove_abandoned(place)
        try:
            self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
            self._lock = os.open(
                os.path.join(self.path, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise SamepageError(f"cannot write to {place}: {error.strerror}") from None
        self._count = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def create(self) -> tuple[int, str]:
        """A new empty file: its descriptor, for writing, and its path."""
        self._count += 1
        path = os.path.join(self.path, str(self._count))
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        return os.open(path, flags, 0o600), path


def _remove_abandoned(place: str) -> None:
    """Remove stores whose process was killed: nothing holds their lock."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if not entry.name.startswith(_PREFIX):
                continue
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                    continue
                lock = os.open(os.path.join(entry.path, _LOCK), os.O_RDWR | os.O_NOFOLLOW)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry.path, ignore_errors=True)
                finally:
                    os.close(lock)
