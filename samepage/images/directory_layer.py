"""Reading a layer that is a directory: of overlay storage, of an unpacked root, of an export.

Files stay where they are, and are hashed only if something asks. Both forms of marks count:
overlayfs' own (a character device 0/0, the attribute `trusted.overlay.opaque`, or `user.` for
rootless mounts) and those of archives (`.wh.NAME`), which `samepage run --export` writes.
"""

from __future__ import annotations

import os
import stat

from samepage.images.layer import Content, Entry, Layer
from samepage.images.limits import MOST_ENTRIES, ImageError

_OPAQUE_ATTRIBUTES = ("trusted.overlay.opaque", "user.overlay.opaque")


def read_directory_layer(place: str, layer: Layer) -> None:
    """Read the tree below `place` into `layer`; other file systems mounted in it are left out.

    Raises `ImageError` if it cannot be read.
    """
    contents: dict[int, Content] = {}
    try:
        device = os.lstat(place).st_dev
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            with os.scandir(os.path.join(place, directory)) as found:
                names = sorted(item.name for item in found)
            for name in names:
                path = f"{directory}/{name}" if directory else name
                status = os.lstat(os.path.join(place, path))
                if status.st_dev != device:
                    continue
                if len(layer.entries) >= MOST_ENTRIES:
                    raise ImageError(f"{place}: more than {MOST_ENTRIES:,} names")
                _add(place, path, status, layer, contents)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
    except OSError as error:
        raise ImageError(f"{error.filename or place}: {error.strerror}") from None


def _add(
    place: str, path: str, status: os.stat_result, layer: Layer, contents: dict[int, Content]
) -> None:
    source = os.path.join(place, path)
    mode = status.st_mode
    if stat.S_ISCHR(mode) and status.st_rdev == 0:
        layer.hidden.add(path)
        return
    entry = Entry(mode, status.st_uid, status.st_gid, int(status.st_mtime), rdev=status.st_rdev)
    if stat.S_ISREG(mode):
        content = contents.get(status.st_ino)
        if content is None:
            content = contents[status.st_ino] = Content(status.st_size, source, None)
        entry.content = content
    elif stat.S_ISLNK(mode):
        entry.target = os.readlink(source)
    elif stat.S_ISDIR(mode) and _is_opaque(source):
        layer.opaque.add(path)
    layer.add(path, entry)


def _is_opaque(path: str) -> bool:
    for name in _OPAQUE_ATTRIBUTES:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False
