"""Why the same content is several inodes, inferred from their paths.

Two files of the same content are kept apart for a reason outside the kernel: they were copied,
installed in a virtual environment, packed into another image, or replaced while programs had
them mapped. One of them is the one to keep; for each other one this names the reason. It
looks at names alone, and needs the standard library only: `samepage live` uses it too.
"""

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple


class Cause(enum.Enum):
    """Why a file is an inode of its own; the value is the words of the report."""

    DELETED = "deleted while mapped (an upgrade; restart its processes)"
    CONTAINER = "in another container (image layers that are not the same)"
    HOST = "the host's own file, outside of containers"
    OTHER_DEVICE = "on another device or overlay layer"
    VIRTUAL_ENVIRONMENT = "a copy in a virtual environment"
    COPY = "a copy"


class Copy(NamedTuple):
    """One of the inodes, with what shows why it is separate.

    `containers` are those whose processes map it, ascending, "" for none.
    """

    dev: int
    path: str
    deleted: bool
    containers: tuple[str, ...]
    frames: int


_ENVIRONMENT = r"/(?:[^/]*(?:venv|virtualenv)[^/]*|(?:[^/]*[-_.])?envs?)/"
"""A directory that is called as virtual environments are: .venv, venv311, my-env, virtualenvs."""
_SYSTEM = ("/usr/lib", "/usr/local/lib")
"""Where a `site-packages` is the system's own."""


def causes(copies: Sequence[Copy]) -> list[Cause | None]:
    """Return why each is an inode of its own, None for the one to keep.

    That one is on the disk still and in no virtual environment, if there is such a one, and
    most frames belong to it.
    """
    keep = min(copies, key=lambda copy: (copy.deleted, _is_in_environment(copy.path), -copy.frames))
    return [None if copy is keep else _cause(copy, keep) for copy in copies]


def _cause(copy: Copy, keep: Copy) -> Cause:
    if copy.deleted:
        return Cause.DELETED
    apart = set(copy.containers).isdisjoint(keep.containers)
    if apart or (copy.dev != keep.dev and copy.containers != keep.containers):
        return Cause.CONTAINER if any(copy.containers) else Cause.HOST
    if _is_in_environment(copy.path):
        return Cause.VIRTUAL_ENVIRONMENT
    return Cause.COPY if copy.dev == keep.dev else Cause.OTHER_DEVICE


def _is_in_environment(path: str) -> bool:
    if re.search(_ENVIRONMENT, path):
        return True
    return "/site-packages/" in path and not path.startswith(_SYSTEM)
