"""Memory that is there twice: lost sharing, and old versions after an upgrade, with who has it."""

from collections.abc import Iterable, Sequence

from samepage.analysis.lost_sharing import LostSharing, Twin
from samepage.analysis.old_versions import OldVersion, total_frames
from samepage.report.group_text import container_label
from samepage.report.sizes import count, printable, size
from samepage.report.tables import Terminal
from samepage.snapshot.columns import Process

FEW_PIDS = 6
"""So many pids are named before the rest is a number."""

OLD_TITLE = "Old versions still mapped: deleted or replaced on disk"


def print_lost(lost: Sequence[LostSharing], terminal: Terminal, top: int | None) -> int:
    """Print lost sharing; return how many contents `top` leaves out."""
    if not lost:
        return 0
    terminal.print()
    terminal.print("Lost sharing: equal content under several inodes", "bold")
    for each in lost[:top]:
        terminal.print(
            f"  {printable(each.name)}: {len(each.twins)} inodes with {size(each.frames)}, "
            f"one would save {size(each.saved_frames)}"
        )
        contained = in_containers(each)
        for twin in each.twins:
            terminal.print(f"    {size(twin.use.cached_frames):>8}  {reason(twin, contained)}")
    return len(lost) - len(lost[:top])


def print_old_versions(found: Sequence[OldVersion], terminal: Terminal, top: int | None) -> int:
    """Print old versions; return how many files `top` leaves out."""
    if not found:
        return 0
    terminal.print()
    terminal.print(f"{OLD_TITLE} ({size(total_frames(list(found)))})", "bold")
    for old in found[:top]:
        users = [each.process for each in old.processes]
        terminal.print(
            f"  {size(old.frames):>8}  {printable(old.use.file.path)} "
            f"({who(users, any(user.container for user in users))}); "
            f"restart {', '.join(map(printable, old.restart)) or 'its processes'}"
        )
    return len(found) - len(found[:top])


def in_containers(lost: LostSharing) -> bool:
    """Return whether a container has one of the files, so that the host is worth a word."""
    return any(process.container for twin in lost.twins for process in twin.processes)


def reason(twin: Twin, contained: bool) -> str:
    """Return a twin's path, who maps it, and why it is an inode of its own."""
    path = printable(twin.use.file.path)
    words = f"{path} ({who(twin.processes, contained)})" if twin.processes else path
    return words + (f": {twin.cause.value}" if twin.cause else "")


def who(processes: Iterable[Process], contained: bool) -> str:
    """Return how many processes these are, their pids, and with `contained` their containers."""
    users = list(processes)
    pids = [str(user.pid) for user in users]
    rest = f" and {len(pids) - FEW_PIDS} more" if len(pids) > FEW_PIDS else ""
    words = f"{count(len(pids), 'process', 'processes')}: {', '.join(pids[:FEW_PIDS])}{rest}"
    if not contained:
        return words
    places = sorted({printable(container_label(user)) for user in users})
    return f"{words}; {' and '.join(place_name(place) for place in places)}"


def place_name(container: str) -> str:
    """Return where a process runs, in words."""
    return f"in {container}" if container else "on the host"
