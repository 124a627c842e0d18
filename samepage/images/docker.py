"""The archive of `docker save` (and `podman save`): `manifest.json` names each image's parts.

Since docker 25 the same archive is an OCI layout, too; then that is read, since it has digests.
"""

from __future__ import annotations

from samepage.images.blobs import Blobs, mapping, read_json, sequence, text
from samepage.images.image import Config, parse_config
from samepage.images.limits import MOST_LAYERS, ImageError

MANIFEST = "manifest.json"


def is_saved(blobs: Blobs) -> bool:
    """Whether it is such an archive (or its content in a directory)."""
    return MANIFEST in blobs


def read_saved(blobs: Blobs, tag: str | None) -> tuple[Config, list[str]]:
    """The configuration and the names of the layers' archives, from the lowest up.

    Raises `ImageError` if there is no image with that tag, or several without one.
    """
    what = f"{blobs.name}: {MANIFEST}"
    images = [mapping(item, what) for item in sequence(read_json(blobs, MANIFEST), what)]
    tags = {
        text(name, what): item for item in images for name in sequence(item.get("RepoTags"), what)
    }
    if tag is not None:
        # docker's own name for an image without a repository prefix
        image = tags.get(tag) or next(
            (item for name, item in tags.items() if name.rsplit("/", 1)[-1] == tag), None
        )
        if image is None:
            raise ImageError(f"{blobs.name}: has no image {tag!r}; it has {', '.join(tags)}")
    elif len(images) == 1:
        image = images[0]
    else:
        known = next(iter(tags), "NAME")
        raise ImageError(
            f"{blobs.name}: has {len(images)} images: name one, as {blobs.name}:{known}"
        )
    layers = [text(name, what) for name in sequence(image.get("Layers"), what)]
    if len(layers) > MOST_LAYERS:
        raise ImageError(f"{what}: {len(layers)} layers, more than any kernel stacks")
    path = text(image.get("Config"), what)
    config = parse_config(read_json(blobs, path), f"{blobs.name}: {path}")
    if len(config.diff_ids) != len(layers):
        raise ImageError(f"{what}: {len(layers)} layers, and {len(config.diff_ids)} diff_ids")
    return config, layers
