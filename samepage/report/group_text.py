"""The tables of groups: programs, units, pods, containers, users, process trees."""

import os
import pwd
from collections.abc import Iterator

from samepage.analysis.cgroup_memory import CgroupAccounts
from samepage.analysis.groups import KINDS, GroupUse, groups, key_of
from samepage.analysis.sharing import Sharing
from samepage.groups.control_group import short_container
from samepage.report.sizes import printable, size, size_if
from samepage.report.tables import Column, Cut, Terminal
from samepage.snapshot.columns import PAGE_SIZE, Process, Snapshot

TITLES = {kind: f"{kind.title()}s" for kind in KINDS} | {"tree": "Process trees"}
"""What the table of each kind of group is called."""

_UNASKED = tuple(kind for kind in KINDS if kind != "tree")
"""The kinds that a report has by itself."""


def groupings(sharing: Sharing) -> Iterator[tuple[str, list[GroupUse]]]:
    """Yield the kind and the groups of each way to group processes that shows something."""
    for kind in _UNASKED:
        key = key_of(kind, sharing.snapshot)
        found = {key(use) for use in sharing.processes}
        if 1 < len(found) < len(sharing.processes):
            yield kind, groups(sharing, key)


def grouping(sharing: Sharing, kind: str) -> list[GroupUse]:
    """Return the groups of one kind of `KINDS`, the most expensive first."""
    return groups(sharing, key_of(kind, sharing.snapshot))


def group_name(snapshot: Snapshot, kind: str, group: GroupUse) -> str:
    """Return what a group is called; a user by name if the snapshot is of this machine."""
    name = group.name
    if kind == "user":
        name = _user(snapshot, name)
    elif kind == "container":
        name = container_label(group.processes[0].process)
    elif kind == "tree":
        name = _root_label(snapshot, name)
    return printable(name) or "(none)"


def container_label(process: Process) -> str:
    """Return a container's name with its runtime and short id; "" if the process is in none.

    >>> container_label(Process(1, container="docker:" + "0f" * 32, container_name="shop"))
    'shop (docker:0f0f0f0f0f0f)'
    """
    container = short_container(process.container)
    name = process.container_name
    if not name:
        return container
    runtime, _, number = container.partition(":")
    return f"{name} ({runtime if name in number else container})"


def charged(accounts: CgroupAccounts, kind: str, group: GroupUse) -> str:
    """Return what the group's control group is charged for; "" if it has none."""
    value = accounts.charged_to(kind, group.processes)
    return "" if value is None else size(value / PAGE_SIZE)


def _user(snapshot: Snapshot, number: str) -> str:
    if snapshot.meta.get("host") == os.uname().nodename:
        try:
            return pwd.getpwuid(int(number)).pw_name
        except KeyError:
            pass
    return number


def _root_label(snapshot: Snapshot, pid: str) -> str:
    number = snapshot.process_number(int(pid))
    if number is None:
        return pid
    process = snapshot.processes[number]
    return f"{pid} {' '.join(process.argv) or f'[{process.comm}]'}"


_COLUMNS = [
    Column("PROCS", rank=4),
    Column("CHARGED", rank=1),
    Column("PSS"),
    Column("FREED"),
    Column("OWN", rank=3),
    Column("FRAMES", rank=1),
    Column("RSS", rank=2),
]


def print_groups(
    sharing: Sharing, kind: str, found: list[GroupUse], terminal: Terminal, top: int | None
) -> int:
    """Print the table of the groups of one kind; return how many rows were left out."""
    visible = sharing.snapshot.frames_visible
    accounts = CgroupAccounts(sharing)
    rows = [
        [
            group_name(sharing.snapshot, kind, group),
            str(len(group.processes)),
            charged(accounts, kind, group),
            size(group.share),
            size_if(visible, group.freed_frames),
            size_if(visible, group.own_frames),
            size_if(visible, group.frames),
            size(group.rss),
        ]
        for group in found[:top]
    ]
    cut = Cut.END if kind in ("tree", "container", "pod") else Cut.PATH
    title = TITLES[kind].removesuffix("s").upper()
    terminal.print_table([Column(title, cut=cut), *_COLUMNS], rows)
    return len(found) - len(rows)
