"""Kernel modules for an initramfs: which files, and in which order they have to be loaded.

A module names those that it needs in its `.modinfo` section, as `depends=a,b`. That is all that
`depmod` reads too (with the aliases, which are not needed to load a module by its name). Debian
compresses modules with xz since Linux 6.12; they are stored uncompressed here.
"""

import lzma
import re
from collections.abc import Iterable
from pathlib import Path

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def modules_for(directory: Path, names: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return (name, content) of the modules and of all they need, those needed first.

    `directory` is unpacked from a kernel's package. A name without a file is left out: it is
    built into that kernel.
    """
    files = {_plain(path.name.partition(".")[0]): path for path in directory.rglob("*.ko*")}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        path = files.get(_plain(name))
        if path is None or _plain(name) in order:
            return
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        match = _DEPENDS.search(content)
        for other in match[1].decode().split(",") if match and match[1] else []:
            add(other)
        order[_plain(name)] = content

    for name in names:
        add(name)
    return list(order.items())


def _plain(name: str) -> str:
    return name.replace("-", "_")
