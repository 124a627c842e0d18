"""Whom a container runs as: `User` of an image's configuration, looked up in its own files.

The text is USER, USER:GROUP, each a name or a number; a name is looked up in the image's
/etc/passwd and /etc/group, and a user without a group gets that of /etc/passwd (config.md).
"""

from __future__ import annotations

from samepage.images.image import Image
from samepage.images.limits import ImageError

FILES = ("etc/passwd", "etc/group")
_MOST = 1 << 20
_LARGEST_ID = (1 << 32) - 2


def user_of(image: Image) -> tuple[int, int, str]:
    """User number, group number and home directory. Raises `ImageError` for an unknown name."""
    name, _, group = image.config.process.user.partition(":")
    users = _lines(image, "/etc/passwd", 6)
    found = next((line for line in users if (name or "0") in (line[0], line[2])), None)
    uid = _number(found[2] if found else name or "0")
    if uid is None:
        raise ImageError(f"{image.name}: its user {name!r} is not in its /etc/passwd")
    gid = _number(found[3]) if found else 0
    if group:
        groups = _lines(image, "/etc/group", 3)
        entry = next((line for line in groups if group in (line[0], line[2])), None)
        gid = _number(entry[2] if entry else group)
    if gid is None:
        raise ImageError(f"{image.name}: its group {group!r} is not in its /etc/group")
    return uid, gid, found[5] if found else "/"


def _number(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() else -1
    return number if 0 <= number <= _LARGEST_ID else None


def _lines(image: Image, path: str, fields: int) -> list[list[str]]:
    node = image.tree.lookup(path)
    content = node.entry.content if node is not None else None
    if content is None or content.path is None:
        return []
    with open(content.path, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":") for line in file.read(_MOST).split("\n")]
    return [line for line in lines if len(line) >= fields]
