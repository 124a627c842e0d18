"""What memory control groups, and the machine, are charged for: as tables.

Of a few groups that were asked for, each kind is a row; of many, each group is.
"""

from collections.abc import Iterator, Sequence

from samepage.analysis.cgroup_memory import (
    CgroupAccounts,
    CgroupMemory,
    Charge,
    Charges,
    Kinds,
    Limit,
)
from samepage.analysis.machine_memory import MachineMemory, machine_memory
from samepage.analysis.sharing import Sharing
from samepage.report.sizes import printable, size
from samepage.report.tables import Column, Cut, Terminal
from samepage.snapshot.columns import PAGE_SIZE

FEW_GROUPS = 3
"""Up to so many that were asked for, each is shown by kind."""
_PAIRS = 5
"""So many lines on who is charged for what whom."""

_TITLES = (
    *("CHARGED", "ANON", "FILE MAPPED", "NOT MAPPED", "SHMEM", "HUGETLB", "KERNEL", "SOCKETS"),
    *("REST", "SWAP", "LIMIT", "BORROWED", "LENT"),
)
_RANKS = (0, 1, 3, 2, 4, 9, 5, 10, 8, 9, 7, 6, 6)

UNCHARGED = "/proc/kpagecgroup is root's"
UNREAD = "all processes must be read, as root and without a selection"
MIXED = f"the kernel counts mapped shared memory with it; {UNREAD}"


def amount(value: int | None) -> str:
    """Return so many bytes as people read them, "?" for what is not known."""
    return "?" if value is None else size(value / PAGE_SIZE)


def group_rows(sharing: Sharing) -> tuple[list[str], list[list[str]]]:
    """Return the titles and rows of the table of all control groups, the largest first."""
    accounts = CgroupAccounts(sharing)
    rows = [_row(memory, accounts.charges(memory.path)) for memory in accounts.all()]
    return ["CONTROL GROUP", *_TITLES], rows


def machine_rows(memory: MachineMemory) -> list[list[str]]:
    """Return the kinds of a machine's memory, as rows of name and amount."""
    rows = [[name, amount(value)] for _, name, value in memory.kinds if value != 0]
    rows.append(["not attributed", amount(memory.rest)])
    rows.append(["= all that is not free", amount(memory.used)])
    if memory.swap_total:
        rows.append(["swapped out", amount(memory.swap_used)])
    return rows


def print_cgroups(sharing: Sharing, terminal: Terminal, top: int | None) -> int:
    """Print the memory of the control groups; return how many rows were left out."""
    accounts = CgroupAccounts(sharing)
    found = accounts.all()
    asked = sharing.snapshot.meta.get("processes_wanted") == "some"
    if asked and 0 < len(found) <= FEW_GROUPS:
        for memory in found:
            _print_one(memory, accounts.charges(memory.path), terminal)
        return 0
    if len(found) < 2:
        return 0
    shown = found[:top]
    charges = [accounts.charges(memory.path) for memory in shown]
    columns = [
        Column("CONTROL GROUP", cut=Cut.PATH),
        *(Column(title, rank=rank) for title, rank in zip(_TITLES, _RANKS, strict=True)),
    ]
    rows = [_row(memory, each) for memory, each in zip(shown, charges, strict=True)]
    terminal.print_table(columns, rows, "Memory of control groups, by who is charged for it")
    for line in _pairs(shown, charges):
        terminal.print(f"  {line}")
    for line in reasons(shown, charges):
        terminal.print(f"  {line}", "note")
    return len(found) - len(shown)


def print_machine(sharing: Sharing, terminal: Terminal) -> None:
    """Print what the machine's memory is used for, if all processes were asked for."""
    memory = machine_memory(sharing)
    if memory is None or sharing.snapshot.meta.get("processes_wanted") == "some":
        return
    title = f"Memory of the machine: {amount(memory.used)} of {amount(memory.total)} is not free"
    terminal.print_table([Column("KIND", cut=Cut.END), Column("")], machine_rows(memory), title)
    if any(value is None for _, _, value in memory.kinds):
        terminal.print(f"  How much of the page cache is mapped: ? ({MIXED}).", "note")


def reasons(shown: Sequence[CgroupMemory], charges: Sequence[Charges]) -> Iterator[str]:
    """Yield why some of it is not known."""
    if any(each.borrowed is None for each in charges):
        yield f"Who is charged for what others use: ? ({UNCHARGED})."
    elif any(each.lent is None for each in charges):
        yield f"LENT: ? ({UNREAD})."
    if any(memory.kinds.file_mapped is None for memory in shown):
        yield f"How much of the page cache is mapped: ? ({MIXED})."


def _row(memory: CgroupMemory, charges: Charges) -> list[str]:
    kinds = memory.kinds
    return [
        printable(memory.path),
        amount(memory.current),
        amount(kinds.anonymous),
        amount(kinds.file_mapped),
        amount(kinds.file_unmapped),
        amount(kinds.shmem) if kinds.shmem else "",
        amount(kinds.hugetlb) if kinds.hugetlb else "",
        amount(kinds.kernel),
        amount(kinds.sockets) if kinds.sockets else "",
        amount(memory.rest),
        amount(memory.swap) if memory.swap else "",
        amount(memory.limit.value) if memory.limit else "",
        _sum(charges.borrowed),
        _sum(charges.lent),
    ]


def _sum(charges: Sequence[Charge] | None) -> str:
    return "?" if charges is None else size(sum(each.frames for each in charges))


def _pairs(shown: Sequence[CgroupMemory], charges: Sequence[Charges]) -> Iterator[str]:
    """Yield lines on who maps what others are charged for, the largest first."""
    pairs = [
        (charge.frames, memory.path, charge.path)
        for memory, each in zip(shown, charges, strict=True)
        for charge in each.borrowed or ()
        if charge.path
    ]
    for frames, user, payer in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:_PAIRS]:
        yield f"{printable(user)} maps {size(frames)} that {printable(payer)} is charged for"


def _print_one(memory: CgroupMemory, charges: Charges, terminal: Terminal) -> None:
    title = f"Memory of {printable(memory.path)}: {amount(memory.current)}"
    for words, limit in (("limit", memory.limit), ("slowed down above", memory.high)):
        title += _limited(words, limit, memory.path)
    rows = [[name, amount(value)] for name, value in kind_rows(memory.kinds)]
    rows.append(["not attributed", amount(memory.rest)])
    rows.append(["= charged to it", amount(memory.current)])
    if memory.swap:
        rows.append(["swapped out", amount(memory.swap)])
    terminal.print_table([Column("KIND", cut=Cut.END), Column("")], rows, title)
    for line in charge_lines(charges):
        terminal.print(line)
    if memory.kinds.file_mapped is None:
        terminal.print(f"How much of the page cache is mapped: ? ({MIXED}).", "note")


def _limited(words: str, limit: Limit | None, path: str) -> str:
    if limit is None:
        return ""
    return f", {words} {amount(limit.value)}" + (
        f" (of {printable(limit.path)})" if limit.path != path else ""
    )


def kind_rows(kinds: Kinds) -> Iterator[tuple[str, int | None]]:
    """Yield the name and the bytes of each kind; parts are indented."""
    yield "anonymous", kinds.anonymous
    yield "page cache of files", kinds.file
    yield "  of it mapped", kinds.file_mapped
    yield "  of it not mapped", kinds.file_unmapped
    yield "shared memory, tmpfs", kinds.shmem
    if kinds.hugetlb:
        yield "hugetlb", kinds.hugetlb
    yield "kernel", kinds.kernel
    for name, value in kinds.kernel_parts:
        yield f"  {name}", value
    if kinds.sockets:
        yield "sockets", kinds.sockets


def charge_lines(charges: Charges) -> Iterator[str]:
    """Yield sentences on who is charged for what others use."""
    if charges.borrowed is None:
        yield f"Who is charged for what its processes map: ? ({UNCHARGED})."
        return
    named = [charge for charge in charges.borrowed if charge.path]
    if named:
        yield f"Its processes map what others are charged for: {_listed(named)}."
    else:
        yield "Its processes map nothing that others are charged for."
    if charges.lent is None:
        yield f"What others map that it is charged for: ? ({UNREAD})."
    elif charges.lent:
        yield f"Others map what it is charged for: {_listed(charges.lent)}."
    else:
        yield "Others map nothing that it is charged for."


def _listed(charges: Sequence[Charge]) -> str:
    named = [
        f"{size(charge.frames)} {printable(charge.path) or '(not known)'}"
        for charge in charges[:_PAIRS]
    ]
    if len(charges) > _PAIRS:
        named.append(f"and {len(charges) - _PAIRS} more")
    return ", ".join(named)
