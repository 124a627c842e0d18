"""Overlay storage on a host: docker's `overlay2/ID` and Podman's `overlay/ID`.

A layer's directory has its files in `diff`, and in `lower` the short names of the layers below
it, the nearest first (`l/NAME`, links beside the layer directories). The inodes that containers
share are those of `diff`, so here a layer's directory is its identity.
Source: moby daemon/graphdriver/overlay2/overlay.go; containers/storage drivers/overlay.
"""

from __future__ import annotations

import os

from samepage.images.limits import MOST_LAYERS, ImageError


def is_storage(path: str) -> bool:
    """Whether `path` is the directory of one layer or container."""
    return os.path.isdir(os.path.join(path, "diff")) and os.path.exists(os.path.join(path, "link"))


def layer_directories(path: str) -> list[str]:
    """The `diff` directories of a layer and of those below it, from the lowest up.

    Raises `ImageError` if one is missing.
    """
    storage = os.path.dirname(os.path.abspath(path))
    lower = ""
    try:
        with open(os.path.join(path, "lower"), encoding="utf-8") as file:
            lower = file.read(MOST_LAYERS * 64)
    except FileNotFoundError:
        pass  # the lowest layer has none
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}/lower: {error}") from None
    found = [os.path.join(path, "diff")]
    for name in filter(None, lower.strip().split(":")):
        place = os.path.realpath(os.path.join(storage, name))
        if os.path.commonpath([place, os.path.realpath(storage)]) != os.path.realpath(storage):
            raise ImageError(f"{path}/lower: {name!r} leads out of the storage")
        if not os.path.isdir(place):
            raise ImageError(f"{path}/lower: there is no layer {name!r}")
        found.append(place)
    return found[::-1]
