"""What containers of several images share on one host, and what they lose.

Overlay storage keeps a layer once for each chain of layers below it. A file is in memory once
for all containers whose image has the same chain up to that layer (the same inode). The same
bytes in another layer are another file to the kernel, and are in memory once more: sharing lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from samepage.images.image import Image
from samepage.images.layer import Content

Inode = tuple[str, str]
"""A file: the chain of its layer, and its first path there."""


@dataclass(slots=True)
class SharedLayer:
    """One layer, with the images (by their number) whose containers share its files."""

    chain_id: str
    created_by: str
    size: int
    images: list[int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a copy of a file is: in which image, by which layer, at which path."""

    image: int
    layer: int
    path: str


@dataclass(slots=True)
class LostFile:
    """The same bytes as several files. `places` has one per inode; `lost` is in bytes."""

    size: int
    elf: bool
    cause: str
    places: list[Place]

    @property
    def lost(self) -> int:
        """What one file for all would save."""
        return self.size * (len(self.places) - 1)


@dataclass(slots=True)
class ImageSharing:
    """Sharing among images; sizes are bytes of files, which are the most that can be in memory."""

    layers: list[SharedLayer]
    shared: int = 0
    """Bytes of files that at least two images have as the same inode."""
    lost: list[LostFile] = field(default_factory=list)
    total: int = 0
    """Bytes of all files that containers of the images see, each inode once."""

    @property
    def lost_bytes(self) -> int:
        """What files by content (composefs, or EROFS with a shared page cache) would save."""
        return sum(item.lost for item in self.lost)


SAME_LAYER = "the same layer, above different ones"
COPIED_UP = "copied by an upper layer that changed only its attributes"
WITHIN = "twice in one image"
LAYERS = "in different layers"


def share_images(images: Sequence[Image]) -> ImageSharing:
    """Compare the visible files of images. Raises `ImageError`."""
    layers: dict[str, SharedLayer] = {}
    for number, image in enumerate(images):
        for layer in image.layers:
            found = layers.get(layer.chain_id)
            if found is None:
                found = SharedLayer(layer.chain_id, layer.created_by, layer.size, [])
                layers[layer.chain_id] = found
            found.images.append(number)
    result = ImageSharing(list(layers.values()))

    inodes: dict[Inode, tuple[Content, Place]] = {}
    users: dict[Inode, set[int]] = defaultdict(set)
    for number, image in enumerate(images):
        names = _first_names(image)
        for node, content in image.tree.files():
            if not content.size:
                continue
            key = (image.layers[node.layer].chain_id, names[id(content)])
            inodes.setdefault(key, (content, Place(number, node.layer, node.path)))
            users[key].add(number)
    result.total = sum(content.size for content, _ in inodes.values())
    result.shared = sum(inodes[key][0].size for key, seen in users.items() if len(seen) > 1)

    repeated = {
        (number, item.path) for number, image in enumerate(images) for item in copied_up(image)
    }
    # Only files of equal size can be equal: the others are never read.
    by_size: dict[int, list[Inode]] = defaultdict(list)
    for key, (content, _) in inodes.items():
        by_size[content.size].append(key)
    for size, keys in by_size.items():
        if len(keys) < 2:
            continue
        by_digest: dict[bytes, list[Inode]] = defaultdict(list)
        for key in keys:
            by_digest[inodes[key][0].digest].append(key)
        for same in by_digest.values():
            if len(same) > 1:
                places = [inodes[key][1] for key in same]
                result.lost.append(
                    LostFile(
                        size, inodes[same[0]][0].is_elf, _cause(images, places, repeated), places
                    )
                )
    result.lost.sort(key=lambda item: (-item.lost, item.places[0].path))
    return result


def _first_names(image: Image) -> dict[int, str]:
    """The first path of each content in its layer: hard links are one inode."""
    names: dict[int, str] = {}
    for layer in image.layers:
        for path, entry in layer.entries.items():
            if entry.content is not None:
                names.setdefault(id(entry.content), path)
    return names


def _cause(images: Sequence[Image], places: list[Place], repeated: set[tuple[int, str]]) -> str:
    if len({place.image for place in places}) == 1:
        return WITHIN
    layers = set()
    for place in places:
        diff_ids = images[place.image].config.diff_ids
        layers.add(diff_ids[place.layer] if place.layer < len(diff_ids) else id(place))
    if len(layers) == 1 and len({place.path for place in places}) == 1:
        return SAME_LAYER
    if any((place.image, place.path) in repeated for place in places):
        return COPIED_UP
    return LAYERS


@dataclass(frozen=True, slots=True)
class CopiedUp:
    """A file that a layer holds again, byte for byte, with other attributes."""

    path: str
    size: int
    layer: int
    below: int


def copied_up(image: Image) -> list[CopiedUp]:
    """The files that a layer repeats without a change of their bytes, the largest first.

    A chmod or chown in a step of its own does that (`RUN chown -R`).
    """
    found = [
        CopiedUp(item.path, item.upper.size, item.upper_layer, item.lower_layer)
        for item in image.tree.replaced
        if item.upper.size == item.lower.size and item.upper.digest == item.lower.digest
    ]
    return sorted((item for item in found if item.size), key=lambda item: (-item.size, item.path))
