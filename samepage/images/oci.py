"""The OCI image layout: `oci-layout`, `index.json`, and `blobs/ALGORITHM/HASH`.

An index leads to manifests, by platform or by another index; a manifest to the configuration
and the layers. Source: image-layout.md, image-index.md, manifest.md of the specification.
"""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO

from samepage.images.blobs import Blobs, Json, Value, mapping, parse_json, sequence, text
from samepage.images.image import Config, parse_config
from samepage.images.limits import MOST_DOCUMENT, MOST_LAYERS, ImageError

_DIGEST = re.compile(r"(sha256|sha512):([0-9a-f]{64}(?:[0-9a-f]{64})?)")
_MOST_INDEXES = 16
_REFERENCE = "org.opencontainers.image.ref.name"


class VerifiedBlob:
    """A blob whose digest is compared as it is read."""

    def __init__(self, file: BinaryIO, digest: str) -> None:
        self._file = file
        self._digest = digest
        self._hash = hashlib.new(digest.partition(":")[0])

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def finish(self) -> None:
        """Read what is left. Raises `ImageError` if the bytes are not those of the digest."""
        while self.read(1 << 20):
            pass
        self._file.close()
        if f"{self._digest.partition(':')[0]}:{self._hash.hexdigest()}" != self._digest:
            raise ImageError(f"blob {self._digest} is damaged: it has another digest")


def open_blob(blobs: Blobs, descriptor: Value, what: str) -> VerifiedBlob:
    """Open what a descriptor refers to. Raises `ImageError`."""
    digest = text(mapping(descriptor, what).get("digest"), f"{what}: digest")
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ImageError(f"{what}: {digest[:80]!r} is no digest")
    return VerifiedBlob(blobs.open(f"blobs/{found[1]}/{found[2]}"), digest)


def _document(blobs: Blobs, descriptor: Value, what: str) -> Json:
    blob = open_blob(blobs, descriptor, what)
    data = blob.read(MOST_DOCUMENT + 1)
    document = mapping(parse_json(data, what), what)
    blob.finish()
    return document


def is_layout(blobs: Blobs) -> bool:
    """Whether an image layout lies there."""
    return "oci-layout" in blobs and "index.json" in blobs


def read_layout(
    blobs: Blobs, index: Value, tag: str | None, architecture: str
) -> tuple[Config, list[Value]]:
    """The configuration and the layers' descriptors, from the lowest up.

    `tag` chooses among several images of one layout, `architecture` among several platforms of
    one image. Raises `ImageError` if there is no such image, or several without a tag.
    """
    what = f"{blobs.name}: index.json"
    chosen = _choose(sequence(mapping(index, what).get("manifests"), what), tag, blobs.name)
    manifest = _manifest(blobs, chosen, architecture)
    what = f"{blobs.name}: manifest"
    layers = sequence(manifest.get("layers"), what)
    if len(layers) > MOST_LAYERS:
        raise ImageError(f"{what}: {len(layers)} layers, more than any kernel stacks")
    config_what = f"{blobs.name}: configuration"
    config = parse_config(_document(blobs, manifest.get("config"), config_what), config_what)
    if len(config.diff_ids) != len(layers):
        raise ImageError(f"{what}: {len(layers)} layers, and {len(config.diff_ids)} diff_ids")
    return config, layers


def _choose(manifests: list[Value], tag: str | None, name: str) -> list[Value]:
    """The entries that have a tag; without one, all of an index that has one image only."""

    def tag_of(item: Value) -> str | None:
        annotations = mapping(mapping(item, name).get("annotations") or {}, name)
        found = annotations.get(_REFERENCE)
        return found if isinstance(found, str) else None

    tags = list(dict.fromkeys(found for item in manifests if (found := tag_of(item))))
    if tag is not None:
        chosen = [item for item in manifests if tag_of(item) == tag]
        if not chosen:
            known = f"; it has {', '.join(tags)}" if tags else ""
            raise ImageError(f"{name}: has no image with the tag {tag!r}{known}")
        return chosen
    if len(tags) > 1:
        raise ImageError(f"{name}: has several images: name one, as {name}:{tags[0]}")
    if not manifests:
        raise ImageError(f"{name}: has no image")
    return manifests


def _manifest(blobs: Blobs, candidates: list[Value], architecture: str) -> Json:
    """Follow indexes to the manifest for an architecture."""
    seen: list[str] = []
    for _ in range(_MOST_INDEXES):
        fitting = []
        for item in candidates:
            descriptor = mapping(item, blobs.name)
            platform = mapping(descriptor.get("platform") or {}, blobs.name)
            found = platform.get("architecture")
            if found == "unknown":
                continue  # an attestation of buildkit
            if found is not None and found != architecture:
                seen.append(str(found))
                continue
            fitting.append(item)
        if not fitting:
            known = ", ".join(dict.fromkeys(seen)) or "none"
            raise ImageError(
                f"{blobs.name}: has no image for {architecture} (it has {known}; see --platform)"
            )
        document = _document(blobs, fitting[0], f"{blobs.name}: manifest")
        if "manifests" not in document:
            return document
        candidates = sequence(document["manifests"], f"{blobs.name}: index")
    raise ImageError(f"{blobs.name}: its indexes lead to one another without an end")
