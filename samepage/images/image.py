"""An image that has been read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from samepage.images.blobs import Json, Value, mapping, sequence, text
from samepage.images.layer import Layer
from samepage.images.limits import ImageError
from samepage.images.tree import Tree


@dataclass(frozen=True, slots=True)
class Process:
    """What a container of the image starts (`config` of config.md)."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    directory: str = "/"
    user: str = ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line: the entry point, then its default arguments."""
        return self.entrypoint + self.command

    @property
    def variables(self) -> dict[str, str]:
        """The environment by name."""
        return dict(pair.split("=", 1) for pair in self.environment if "=" in pair)


@dataclass(frozen=True, slots=True)
class Config:
    """An image's configuration.

    `architecture` is Go's name ("amd64", "arm64"). `diff_ids` are the digests of the layers'
    archives, uncompressed. `steps` are the lines of its history that made a layer.
    """

    architecture: str = ""
    process: Process = Process()
    diff_ids: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass
class Image:
    """An image: `layers` from the lowest up."""

    name: str
    config: Config
    layers: list[Layer] = field(default_factory=list)

    @cached_property
    def tree(self) -> Tree:
        """What a container of it sees. Raises `ImageError`."""
        try:
            return Tree(self.layers)
        except ImageError as error:
            raise ImageError(f"{self.name}: {error.message}") from None


def parse_config(document: Value, what: str) -> Config:
    """The configuration in a document; `what` names it. Raises `ImageError`."""
    top = mapping(document, what)
    inner = mapping(top.get("config") or {}, f"{what}: config")
    rootfs = mapping(top.get("rootfs") or {}, f"{what}: rootfs")
    process = Process(
        _texts(inner, "Entrypoint", what),
        _texts(inner, "Cmd", what),
        _texts(inner, "Env", what),
        text(inner.get("WorkingDir") or "/", f"{what}: WorkingDir"),
        text(inner.get("User") or "", f"{what}: User"),
    )
    steps = []
    for item in sequence(top.get("history"), f"{what}: history"):
        step = mapping(item, f"{what}: history")
        if not step.get("empty_layer"):
            steps.append(text(step.get("created_by") or "", f"{what}: created_by"))
    return Config(
        architecture=text(top.get("architecture") or "", f"{what}: architecture"),
        process=process,
        diff_ids=_texts(rootfs, "diff_ids", what),
        steps=tuple(steps),
    )


def _texts(source: Json, key: str, what: str) -> tuple[str, ...]:
    return tuple(text(item, f"{what}: {key}") for item in sequence(source.get(key), what))
