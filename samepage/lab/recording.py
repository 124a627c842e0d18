"""Recorded truth: what a live kernel showed of some groups of programs, in one small file.

The file has all that a comparison needs of the live side, so that the model can be compared
with that kernel on any machine, without root: a rule that is broken for another kernel fails
where it is broken. docs/recording.md describes each key.

It is JSON, compressed by gzip (whose checksum finds damage), so that any program can read it.
Frames are renamed to 1, 2, 3... in the order in which processes and pages first show them: a
PFN means nothing on another machine, and the comparison is up to renaming anyway.
"""

import binascii
import gzip
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from samepage import __version__
from samepage.errors import SamepageError
from samepage.kernel.vdso_image import VdsoImage
from samepage.lab.commands import Commands, join_commands
from samepage.lab.scenario import Scenario
from samepage.machine.host import Host
from samepage.stop_at import StopAt

FORMAT, VERSION = "samepage recording", 1
_MAX_BYTES = 1 << 30
"""More than any recording has, so that a damaged or hostile file cannot fill the memory."""

_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a document raises that has not the form that it should have."""

Packed = dict[str, Any]
"""What JSON has: the form of a part of the file."""


@dataclass(slots=True)
class RecordedFile:
    """A file that the programs had mapped at their instant, or (not `mapped`) may have read
    before. `content` is None where it was not kept; `sha256` is None where the file could not
    be read (for example, it was deleted)."""

    path: str
    size: int | None = None
    build_id: str | None = None
    sha256: str | None = None
    deleted: bool = False
    mapped: bool = True
    content: bytes | None = None


@dataclass(slots=True)
class Recording:
    """A recording. `scenario` is that of all its groups, without their commands; `groups` has
    each group's memory, packed (`samepage.lab.recorded_memory`), by its commands."""

    kernel: Host
    cpu: dict[str, str]
    scenario: Scenario
    files: list[RecordedFile] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    """Symbolic links by which the programs reached files: path -> what it has."""
    groups: list[tuple[Commands, Packed]] = field(default_factory=list)

    def group(self, commands: Commands) -> Packed:
        """The memory of a group. Raises `SamepageError` if it was not recorded."""
        for known, packed in self.groups:
            if known == commands:
                return packed
        raise SamepageError(f"not recorded: {join_commands(commands)}")

    def file_number(self, path: str) -> int:
        """The position of the file that was recorded under a path, -1 if there is none."""
        return next((n for n, file in enumerate(self.files) if file.path == path), -1)


def encode(recording: Recording) -> bytes:
    """The bytes of the file."""
    scenario = recording.scenario
    content = {
        "format": FORMAT,
        "version": VERSION,
        "samepage": __version__,
        "kernel": _pack_kernel(recording.kernel),
        "cpu": recording.cpu,
        "scenario": {
            "env": dict(scenario.env),
            "cwd": scenario.cwd,
            "stop_at": scenario.stop_at.value,
            "cold": scenario.cold,
        },
        "files": [_pack_file(file) for file in recording.files],
        "links": recording.links,
        "groups": [{"commands": commands, **packed} for commands, packed in recording.groups],
    }
    text = json.dumps(content, separators=(",", ":")).encode("ascii")
    return gzip.compress(text, mtime=0)


def read_recording(path: str) -> Recording:
    """Read a recording. Raises `SamepageError` in one line if it cannot be read, is damaged, or
    has a version that this samepage does not know."""
    try:
        with gzip.open(path) as file:
            text = file.read(_MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SamepageError(f"{path}: not a recording, or damaged: {error}") from error
    except OSError as error:
        raise SamepageError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) > _MAX_BYTES:
        raise SamepageError(f"{path}: larger than any recording is")
    with sound(path):
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
    if content["version"] != VERSION:
        raise SamepageError(
            f"{path}: has version {content['version']!r}, this samepage reads {VERSION}"
        )
    with sound(path):
        return _unpack(content)


@contextmanager
def sound(path: str) -> Iterator[None]:
    """Turn whatever a damaged part leads to into one `SamepageError`."""
    try:
        yield
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise SamepageError(f"{path}: not a recording, or damaged: {what}") from error
    except SamepageError as error:
        raise SamepageError(f"{path}: not a recording, or damaged: {error.message}") from error


def _unpack(content: Packed) -> Recording:
    given = content["scenario"]
    scenario = Scenario(
        [],
        {str(name): str(value) for name, value in given["env"].items()},
        cwd=str(given["cwd"]),
        stop_at=StopAt(given["stop_at"]),
        cold=bool(given["cold"]),
    )
    return Recording(
        _unpack_kernel(content["kernel"]),
        {str(name): str(value) for name, value in content["cpu"].items()},
        scenario,
        [_unpack_file(file) for file in content["files"]],
        {str(path): str(target) for path, target in content["links"].items()},
        [
            ([[str(word) for word in argv] for argv in group.pop("commands")], group)
            for group in content["groups"]
        ],
    )


def _pack_file(file: RecordedFile) -> Packed:
    packed: Packed = {"path": file.path, "size": file.size, "build_id": file.build_id}
    packed |= {"sha256": file.sha256, "deleted": file.deleted, "mapped": file.mapped}
    if file.content is not None:
        packed["content"] = b64encode(zlib.compress(file.content, 9)).decode("ascii")
    return packed


def _unpack_file(packed: Packed) -> RecordedFile:
    content = packed.get("content")
    return RecordedFile(
        str(packed["path"]),
        None if packed["size"] is None else int(packed["size"]),
        _text(packed["build_id"]),
        _text(packed["sha256"]),
        bool(packed["deleted"]),
        bool(packed["mapped"]),
        _unpack_bytes(content) if content is not None else None,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _unpack_bytes(text: str) -> bytes:
    try:
        return zlib.decompressobj().decompress(b64decode(text, validate=True), _MAX_BYTES)
    except (zlib.error, binascii.Error) as error:
        raise ValueError(f"content that cannot be unpacked: {error}") from error


def _pack_kernel(kernel: Host) -> Packed:
    vdso = kernel.vdso
    return {
        "release": kernel.release,
        "version": kernel.version,
        "min_sigstack_size": kernel.min_sigstack_size,
        "mmap_min_addr": kernel.mmap_min_addr,
        "vdso": vdso
        and {
            "code": b64encode(zlib.compress(vdso.code, 9)).decode("ascii"),
            "vvar_size": vdso.vvar_size,
            "vclock_size": vdso.vclock_size,
            "basetime": vdso.basetime,
            "resolution": vdso.resolution,
        },
    }


def _unpack_kernel(packed: Packed) -> Host:
    vdso = packed["vdso"]
    image = vdso and VdsoImage(
        _unpack_bytes(vdso["code"]),
        int(vdso["vvar_size"]),
        int(vdso["vclock_size"]),
        int(vdso["basetime"]),
        None if vdso["resolution"] is None else int(vdso["resolution"]),
    )
    return Host(
        "samepage",
        str(packed["release"]),
        str(packed["version"]),
        int(packed["min_sigstack_size"]),
        int(packed["mmap_min_addr"]),
        image,
    )
