"""Which processes still run an old version of a program or library, after an upgrade.

A package manager writes the new file beside the old one and renames it over the old name. Processes
that have the old file mapped keep its inode, which has no name any more (maps shows it as
`(deleted)`), with all its page cache, until they end. Equal build-ids show nothing here: a real
upgrade changes the code. So it goes by the name alone: what is deleted, and was mapped to be
executed, from a place where programs are installed. Files that programs make for themselves and
delete at once (memfd, shared memory, code that was just compiled in /tmp) are no versions.
"""

from __future__ import annotations

from typing import NamedTuple

from samepage.analysis.groups import by_unit
from samepage.analysis.lost_sharing import users_of
from samepage.analysis.sharing import FileUse, ProcessUse, Sharing

_MADE_BY_PROGRAMS = ("/memfd:", "/dev/", "/SYSV", "/tmp/", "/var/tmp/", "/run/", "/proc/", "/anon")


class OldVersion(NamedTuple):
    """One file that was deleted or replaced while processes execute it."""

    use: FileUse
    processes: tuple[ProcessUse, ...]
    """Who maps it, ascending by pid."""
    restart: tuple[str, ...]
    """What to restart, so that nothing maps it any more: units of systemd, and programs that are
    in none."""

    @property
    def frames(self) -> int:
        """Page cache and copies that the restart frees."""
        return self.use.cached_frames + self.use.copied_frames


def old_versions(sharing: Sharing) -> list[OldVersion]:
    """Return them, the largest first."""
    mappings = sharing.snapshot.vmas.mappings
    executed = {mapping.file for mapping in mappings if "x" in mapping.perms}
    found = [
        _old(sharing, use)
        for use in sharing.files
        if use.file.deleted and use.number in executed and use.processes and _is_installed(use)
    ]
    return sorted(found, key=lambda old: (-old.frames, old.use.file.path, old.use.file.ino))


def _is_installed(use: FileUse) -> bool:
    path = use.file.path
    return path.startswith("/") and not path.startswith(_MADE_BY_PROGRAMS)


def _old(sharing: Sharing, use: FileUse) -> OldVersion:
    processes = tuple(sharing.processes[number] for number in users_of(sharing, use.number))
    restart = {by_unit(each) or each.process.exe or each.process.comm for each in processes}
    return OldVersion(use, processes, tuple(sorted(restart - {""})))


def total_frames(found: list[OldVersion]) -> int:
    """Return how many frames all of them take."""
    return sum(old.frames for old in found)
