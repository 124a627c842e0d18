"""From an argument to an image, whatever form it has.

An archive that is neither is taken for the files of a root.

An argument is a path, with `:TAG` behind it where a file has several images. The form is known
from what lies there, never from a suffix.
"""

from __future__ import annotations

import os
import platform

from samepage.images import docker, oci, storage
from samepage.images.blobs import ArchiveBlobs, Blobs, DirectoryBlobs, read_json
from samepage.images.directory_layer import read_directory_layer
from samepage.images.image import Config, Image
from samepage.images.layer import Layer, chain
from samepage.images.limits import MOST_ENTRIES, ImageError
from samepage.images.store import Store
from samepage.images.tar_layer import Keep, read_tar_layer

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
"""Go's names, which images use, of `uname -m`."""


def host_architecture() -> str:
    """This machine's architecture as images name it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def read_image(argument: str, store: Store, keep: Keep, architecture: str | None = None) -> Image:
    """Read the image that an argument names; the contents that `keep` wants go to `store`.

    Raises `ImageError`, in one line that starts with the argument.
    """
    path, tag = _split(argument)
    try:
        return _read(path, tag, store, keep, architecture or host_architecture())
    except ImageError as error:
        if error.message.startswith(path):
            raise
        raise ImageError(f"{argument}: {error.message}") from None


def is_plain(path: str) -> bool:
    """Whether a directory is a tree of files, and no image in another form."""
    blobs = DirectoryBlobs(path)
    return not (oci.is_layout(blobs) or docker.is_saved(blobs) or storage.is_storage(path))


def _split(argument: str) -> tuple[str, str | None]:
    """The path and the tag; a path that exists as it is has no tag."""
    if os.path.lexists(argument):
        return argument, None
    at = argument.find(":")
    while at >= 0:
        if os.path.lexists(argument[:at]) and argument[at + 1 :]:
            return argument[:at], argument[at + 1 :]
        at = argument.find(":", at + 1)
    raise ImageError(f"{argument}: there is no such file or directory")


def _read(path: str, tag: str | None, store: Store, keep: Keep, architecture: str) -> Image:
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise ImageError(f"{path}: neither a file nor a directory")
        archive = ArchiveBlobs(path)
        if tag is None and not (oci.is_layout(archive) or docker.is_saved(archive)):
            return _from_files(archive, store, keep)
        return _from_blobs(archive, tag, store, keep, architecture)
    blobs = DirectoryBlobs(path)
    if oci.is_layout(blobs) or docker.is_saved(blobs):
        return _from_blobs(blobs, tag, store, keep, architecture)
    if tag is not None:
        raise ImageError(f"{path}: a directory of files has no tag {tag!r}")
    if storage.is_storage(path):
        return _from_directories(path, storage.layer_directories(path))
    return _from_directories(path, [path])


def _from_files(archive: ArchiveBlobs, store: Store, keep: Keep) -> Image:
    """An archive of a root's files, as `docker export` writes: one layer."""
    layer = Layer("")
    layer.chain_id = read_tar_layer(archive.whole(), layer, store, keep, None)
    return Image(archive.name, Config(), [layer])


def _from_directories(name: str, places: list[str]) -> Image:
    image = Image(name, Config())
    for place in places:
        layer = Layer(os.path.realpath(place))
        read_directory_layer(place, layer)
        image.layers.append(layer)
        _check_size(image)
    return image


def _from_blobs(
    blobs: Blobs, tag: str | None, store: Store, keep: Keep, architecture: str
) -> Image:
    if oci.is_layout(blobs):
        index = read_json(blobs, "index.json")
        config, descriptors = oci.read_layout(blobs, index, tag, architecture)
        image = Image(blobs.name, config)
        for number, descriptor in enumerate(descriptors):
            blob = oci.open_blob(blobs, descriptor, f"{blobs.name}: layer")
            read_tar_layer(blob, _next(image), store, keep, config.diff_ids[number])
            blob.finish()
            _check_size(image)
    elif docker.is_saved(blobs):
        config, names = docker.read_saved(blobs, tag)
        image = Image(blobs.name, config)
        for number, name in enumerate(names):
            with blobs.open(name) as file:
                read_tar_layer(file, _next(image), store, keep, config.diff_ids[number])
            _check_size(image)
    else:
        raise ImageError(f"{blobs.name}: neither an OCI layout nor an archive of docker save")
    if tag is not None:
        image.name = f"{blobs.name}:{tag}"
    return image


def _next(image: Image) -> Layer:
    """Put the next layer on an image, still empty."""
    number = len(image.layers)
    below = image.layers[-1].chain_id if image.layers else ""
    steps = image.config.steps
    layer = Layer(
        chain(below, image.config.diff_ids[number]),
        created_by=steps[number] if len(steps) == len(image.config.diff_ids) else "",
    )
    image.layers.append(layer)
    return layer


def _check_size(image: Image) -> None:
    if sum(len(layer.entries) for layer in image.layers) > MOST_ENTRIES:
        raise ImageError(f"{image.name}: more than {MOST_ENTRIES:,} names")
