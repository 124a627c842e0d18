"""The files of a recording: which they were, and where a machine finds the same ones.

A page of a file is that file's content, and where it lies in memory depends on the file's
size: so a recording can be compared only with a run of the same files. Where this system
does not have them, the recording may have them itself; then they are put into a directory that
the model takes for its root, with the symbolic links by which the programs reached them.
"""

import contextlib
import enum
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from samepage.errors import SamepageError
from samepage.lab.commands import Commands
from samepage.lab.environment import find_program
from samepage.lab.recording import RecordedFile, Recording
from samepage.live.build_id import read_build_id

LDSO_CACHE = "/etc/ld.so.cache"
"""What ld.so maps, and gives back before the program runs, unless every library has a
DT_RUNPATH. Its size then decides the addresses of what is mapped meanwhile."""


class Keep(enum.Enum):
    """The files of which a recording has the contents."""

    NONE = "none"
    PROGRAMS = "programs"
    """Those that a group starts."""
    ALL = "all"


def identify(recording: Recording, commands: Commands, keep: Keep) -> None:
    """Note what the files are that a group mapped, and how they are reached."""
    programs = {os.path.realpath(find_program(argv[0])) for argv in commands}
    loaders = [file.path for file in recording.files if "/ld-" in file.path]
    if loaders and recording.file_number(LDSO_CACHE) < 0:
        recording.files.append(RecordedFile(LDSO_CACHE, mapped=False))
    for file in recording.files:
        if file.deleted or file.sha256 is not None:
            continue
        kept = keep is Keep.ALL or (keep is Keep.PROGRAMS and file.path in programs)
        with contextlib.suppress(OSError):
            _identify(file, kept)
            recording.links.update(_links_to(file.path))
    if loaders:
        recording.links.update(_links_in("/"))


def _identify(file: RecordedFile, keep: bool) -> None:
    with open(file.path, "rb") as stream:
        content = stream.read()
        file.build_id = read_build_id(stream.fileno())
    file.size = len(content)
    file.sha256 = hashlib.sha256(content).hexdigest()
    file.content = content if keep else None


def _links_to(path: str) -> dict[str, str]:
    """The symbolic links to a file that lie beside it, and where the psABI has ld.so's."""
    places = {os.path.dirname(path), os.path.realpath("/lib64")}
    links = {name: to for place in places for name, to in _links_in(place).items()}
    return {name: to for name, to in links.items() if os.path.realpath(name) == path}


def _links_in(directory: str) -> dict[str, str]:
    with os.scandir(directory) as entries:
        return {entry.path: os.readlink(entry.path) for entry in entries if entry.is_symlink()}


@contextlib.contextmanager
def place(recording: Recording) -> Iterator[tuple[str, list[str]]]:
    """Give a directory that has the recorded files at their paths, and notes for the reader: the
    root of this system if it has the same files, else one that is filled with them and removed
    afterwards.

    Raises `SamepageError` if a file is neither here nor in the recording.
    """
    known = [file for file in recording.files if file.sha256 is not None]
    missing = [file for file in known if not _is_here(file)]
    notes = [_explain(file) for file in missing if not file.mapped and file.content is None]
    if not any(file.mapped for file in missing):
        yield "/", notes
        return
    for file in missing:
        if file.mapped and file.content is None:
            raise SamepageError(_explain(file))
    with tempfile.TemporaryDirectory(prefix="samepage-recording-") as root:
        try:
            _fill(Path(root), recording, known, missing)
        except (OSError, ValueError) as error:
            raise SamepageError(f"the recorded files cannot be put anywhere: {error}") from error
        yield root, notes


def _fill(
    root: Path, recording: Recording, known: list[RecordedFile], missing: list[RecordedFile]
) -> None:
    for file in known:
        if file.content is not None:
            _write(root, file, file.content)
        elif file not in missing:
            _write(root, file, Path(file.path).read_bytes())
    for name, target in recording.links.items():
        link = _below(root, name)
        if not os.path.lexists(link):
            link.symlink_to(target)


def _is_here(file: RecordedFile) -> bool:
    try:
        with open(file.path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size != file.size:
                return False
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except (OSError, ValueError):  # a name that no file can have
        return False


def _explain(file: RecordedFile) -> str:
    what = f"build-id {file.build_id}" if file.build_id else f"sha256 {file.sha256}"
    state = "is another file here" if os.path.exists(file.path) else "is not here"
    reads = "" if file.mapped else ", and ld.so may have read it"
    return f"{file.path} {state}: {file.size} bytes with {what} were recorded{reads}"


def _write(root: Path, file: RecordedFile, content: bytes) -> None:
    path = _below(root, file.path)
    path.write_bytes(content)
    path.chmod(0o755)


def _below(root: Path, name: str) -> Path:
    """The path of a recorded name below `root`, with the directories that it needs. Raises
    `SamepageError` for a name that leads out of it, be it by a link that was put there."""
    path = root.joinpath(name.lstrip("/"))
    parent = os.path.realpath(path.parent)
    top = os.path.realpath(root)
    if ".." in path.parts or os.path.commonpath((parent, top)) != top or path == root:
        raise SamepageError(f"the recording has a file {name!r}, which leads out of its root")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
