"""Tables of the memory that processes share since a fork, and of the VMAs of a few processes."""

from collections.abc import Iterator

import numpy as np

from samepage.analysis.forks import Family, Forks, Kin
from samepage.analysis.sharing import ProcessUse, Sharing, VmaUse
from samepage.report.sizes import count, printable, size, size_if
from samepage.report.tables import Column, Cut, Terminal
from samepage.snapshot.columns import Process
from samepage.snapshot.kinds import FrameKind

_MEMBERS = 12
"""So many processes of a family are named, if families are few."""
_FEW_FAMILIES = 3
_SHARERS = 4

UNKNOWN = "no relative of it was read: samepage live --tree PID of its ancestor shows them"


def print_families(sharing: Sharing, forks: Forks, terminal: Terminal, top: int | None) -> int:
    """Print what processes share since a fork; return how many rows were left out."""
    shown = forks.families[:top]
    if not shown:
        return 0
    processes = {process.pid: process for process in sharing.snapshot.processes}
    detailed = len(forks.families) <= _FEW_FAMILIES
    columns = [
        Column("FORKED FROM", cut=Cut.COMMAND),
        Column("PID"),
        Column("PROCS", rank=3),
        Column("SHARED"),
        Column("MAPPED AS", rank=2),
        Column("COPIED"),
        Column("APART", rank=1),
    ]
    rows = []
    for family in shown:
        rows.append(_family_row(family, processes[family.root]))
        if detailed:
            rows += _member_rows(family, processes, top)
    title = "Anonymous memory that is shared since a fork"
    terminal.print_table(columns, rows, title)
    return len(forks.families) - len(shown)


def _family_row(family: Family, root: Process) -> list[str]:
    apart = sum(member.kin.apart for member in family.members)
    return [
        called(root),
        str(family.root),
        str(len(family.members)),
        size(family.frames),
        size(family.mapped),
        size(family.copied),
        size(apart),
    ]


def _member_rows(
    family: Family, processes: dict[int, Process], top: int | None
) -> Iterator[list[str]]:
    depth: dict[int, int] = {}
    shown = family.members if top is None else family.members[:_MEMBERS]
    for member in shown:
        above = depth.get(member.parent, 0) if member.parent is not None else 0
        depth[member.pid] = above + 1
        program, space, arguments = called(processes[member.pid]).partition(" ")
        name = program.rpartition("/")[2] + space + arguments
        kin = member.kin
        yield [
            *("  " * depth[member.pid] + name, str(member.pid), "", size(kin.shared), ""),
            *(size(kin.copied), size(kin.apart)),
        ]
    if len(shown) < len(family.members):
        yield [f"  and {len(family.members) - len(shown)} more", *[""] * 6]


def called(process: Process) -> str:
    """Return how a process was called."""
    return printable(" ".join(process.argv)) or f"[{printable(process.comm)}]"


def print_vmas(
    sharing: Sharing, use: ProcessUse, forks: Forks, terminal: Terminal, top: int | None
) -> int:
    """Print the VMAs of a process by what they cost; return how many rows were left out."""
    kin = forks.of_vmas(use.number)
    vmas = sorted(sharing.vmas(use.number), key=_cost)
    resident = [vma for vma in vmas if vma.usage.rss or vma.usage.swap or vma.usage.hugetlb]
    shown = resident[:top]
    columns = [
        Column("MAPPING", cut=Cut.PATH),
        Column("ADDRESS", rank=6),
        Column("PERMS", rank=4),
        Column("PSS"),
        Column("RSS", rank=1),
        Column("ANON", rank=2),
        Column("SHARED", rank=0),
        Column("COPIED", rank=0),
        Column("APART", rank=3),
        Column("SWAP", rank=3),
        Column("WITH", rank=5),
    ]
    known = bool(kin)
    rows = []
    for vma in shown:
        others = forks.sharers(use.number, vma.number) if vma.number in kin else []
        rows.append([*_vma_row(sharing, vma, kin.get(vma.number), known), _named(others)])
    title = f"VMAs of {use.process.pid}: {called(use.process)}, by what they cost"
    terminal.print_table(columns, rows, title)
    if not known and any(_may_be_shared(vma) for vma in resident):
        terminal.print(f"  With whom, and what was copied: ? ({UNKNOWN})", "note")
    return len(resident) - len(shown)


def _cost(vma: VmaUse) -> tuple[float, int, int]:
    return -float(vma.share), -vma.usage.rss, vma.start


def _may_be_shared(vma: VmaUse) -> bool:
    usage = vma.usage
    return usage.anonymous > 0 and usage.shared_clean + usage.shared_dirty > 0


def _shared(sharing: Sharing, vma: VmaUse) -> int:
    """Return how many anonymous pages of a VMA others map too, whoever they are."""
    snapshot = sharing.snapshot
    first, last = snapshot.bounds[vma.number : vma.number + 2].tolist()
    shared = (snapshot.frames.kind == FrameKind.ANON) & (sharing.counted.degree > 1)
    return int(np.count_nonzero(np.append(shared, False)[snapshot.pages.frame[first:last]]))


def _named(pids: list[int]) -> str:
    more = len(pids) - _SHARERS
    named = ", ".join(map(str, pids[:_SHARERS]))
    return named + (f" and {count(more, 'other')}" if more > 0 else "")


def _vma_row(sharing: Sharing, vma: VmaUse, kin: Kin | None, known: bool) -> list[str]:
    usage = vma.usage
    if kin is not None:
        parts = [size(pages) if pages else "" for pages in kin]
    elif not known and _may_be_shared(vma):
        visible = sharing.snapshot.frames_visible
        parts = [size_if(visible, _shared(sharing, vma)), "?", "?"]
    else:
        parts = [""] * 3
    return [
        printable(vma.mapping.name) or "(anonymous)",
        f"{vma.start:x}",
        vma.mapping.perms,
        size(vma.share),
        size(usage.rss),
        size(usage.anonymous) if usage.anonymous else "",
        *parts,
        size(usage.swap) if usage.swap else "",
    ]
