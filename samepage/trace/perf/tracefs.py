"""Tracepoints by name: their numbers, and where their fields lie in a raw record.

The numbers differ between kernels, and so may the layouts, so both are read from tracefs
(`events/GROUP/NAME/id` and `format`). Where tracefs is not mounted, it is mounted in a mount
namespace of a child process that lives only for the reading: nothing changes for this process
or for the host.
"""

import ctypes
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from samepage.errors import SamepageError

_MOUNT_POINTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_FIELD = re.compile(
    r"field:(?P<type>[^;]*?)\b(?P<name>\w+)(?:\[\d*\])?;\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
)
_CLONE_NEWNS = 0x0002_0000
_MS_REC, _MS_PRIVATE = 0x4000, 0x4_0000
_READ_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """One tracepoint: `config` is what perf_event_attr wants; `fields` maps the name of a
    field to (offset, size), in bytes, in the raw data of a record."""

    name: str
    config: int
    fields: dict[str, tuple[int, int]]


def find_tracepoints(*names: str) -> dict[str, Tracepoint]:
    """The tracepoints `GROUP:NAME` by name; those that this kernel does not have are absent.

    Raises `SamepageError` if tracefs can be neither read nor mounted.
    """
    texts = _read_texts(names)
    return {
        name: Tracepoint(name, int(ident), parse_format(layout))
        for name, (ident, layout) in texts.items()
    }


def parse_format(text: str) -> dict[str, tuple[int, int]]:
    """The fields of a `format` file: name -> (offset, size), both in bytes."""
    return {
        match["name"]: (int(match["offset"]), int(match["size"])) for match in _FIELD.finditer(text)
    }


def _read_texts(names: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    for mount in _MOUNT_POINTS:
        try:
            if os.path.isdir(f"{mount}/events"):
                return _texts_below(mount, names)
        except PermissionError as error:
            raise SamepageError(
                f"{mount} cannot be read: run as root, or remount tracefs with gid= and mode="
            ) from error
    return _read_mounted_privately(names)


def _texts_below(mount: str, names: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    found = {}
    for name in names:
        directory = Path(mount, "events", name.replace(":", "/"))
        try:
            found[name] = ((directory / "id").read_text(), (directory / "format").read_text())
        except FileNotFoundError:
            continue
    return found


def _read_mounted_privately(names: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Read the files in a child that mounts tracefs in a mount namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            status = _mount_and_write(libc, writer, names)
        finally:
            os._exit(status & 0xFF)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read(_READ_LIMIT)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == errno.EPERM:
        raise SamepageError(
            "tracefs is not mounted at /sys/kernel/tracing, "
            "and mounting it needs root (CAP_SYS_ADMIN)"
        )
    if code:
        reason = os.strerror(code) if code > 0 else f"signal {-code}"
        raise SamepageError(f"tracefs cannot be mounted: {reason}: this kernel may lack tracing")
    parts = data.decode("utf-8", "replace").split("\0")[:-1]
    return {parts[i]: (parts[i + 1], parts[i + 2]) for i in range(0, len(parts), 3)}


def _mount_and_write(libc: ctypes.CDLL, writer: int, names: tuple[str, ...]) -> int:
    """The child's part; returns 0 or the errno that stopped it."""
    if libc.unshare(_CLONE_NEWNS):
        return ctypes.get_errno()
    if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        return ctypes.get_errno()
    if libc.mount(b"tracefs", b"/sys", b"tracefs", 0, None):
        return ctypes.get_errno()
    for name, (ident, layout) in _texts_below("/sys", names).items():
        os.write(writer, f"{name}\0{ident}\0{layout}\0".encode())
    return 0
