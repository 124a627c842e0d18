"""The report for people: first the answer in a few lines, then the tables.

It fits 80 columns, and has more where there are more; in a pipe there is no colour. It is the
same for a model run, the running system and a snapshot that was saved: processes and groups
are sorted by what they cost, files by what their sharing saves.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from samepage.analysis.counting import Scope
from samepage.analysis.forks import Forks
from samepage.analysis.groups import GroupUse
from samepage.analysis.lost_sharing import LostSharing, lost_sharing
from samepage.analysis.old_versions import old_versions
from samepage.analysis.same_memory import same_memory
from samepage.analysis.shares import together
from samepage.analysis.sharing import FileUse, ProcessUse, Sharing, Totals
from samepage.report.cgroup_text import print_cgroups, print_machine
from samepage.report.fork_text import print_families, print_vmas
from samepage.report.group_text import grouping, groupings, print_groups
from samepage.report.lost_text import print_lost, print_old_versions
from samepage.report.sizes import count, percent, printable, size, size_if
from samepage.report.tables import FILE_WIDTH, Column, Cut, Terminal
from samepage.snapshot.columns import File, Process, Snapshot

FEW_PROCESSES = 4
"""Up to so many, each file has a line that names what each process has of it."""

FEW_VMAS = 8
"""So many VMAs of each are shown if there are several processes."""

UNREAD = (
    ("denied", "may not be read"),
    ("vanished", "exited meanwhile"),
    ("appeared", "started meanwhile"),
    ("changed", "changed meanwhile"),
    ("stuck", "could not be read in time"),
    ("malformed", "with unreadable maps"),
)


def write(sharing: Sharing, stream: TextIO) -> None:
    """Write the whole report, with all rows, as plain text."""
    print_sharing(sharing, Terminal(stream, None if stream.isatty() else FILE_WIDTH), top=None)


def print_sharing(
    sharing: Sharing, terminal: Terminal, *, top: int | None = 20, by: str | None = None
) -> None:
    """Print the report; `top` bounds the rows of each table, None prints all.

    `by` asks for one kind of groups (`analysis.groups.KINDS`) in place of processes and the others.
    """
    lost = lost_sharing(sharing)
    for line in answer(sharing, lost):
        terminal.print(line, "bold" if line.startswith("Sharing saves") else "")
    for line in notes(sharing):
        terminal.print(line, "note")
    if by is not None:
        _print_grouping(sharing, by, grouping(sharing, by), terminal, top)
        _print_files(sharing, terminal, top)
    else:
        _print_processes(sharing, terminal, top)
        _print_forks(sharing, terminal, top)
        _print_files(sharing, terminal, top)
        for kind, found in groupings(sharing):
            _print_grouping(sharing, kind, found, terminal, top)
    rest = print_cgroups(sharing, terminal, top)
    if rest:
        _print_rest(terminal, rest)
    print_machine(sharing, terminal)
    for rest in (
        print_old_versions(old_versions(sharing), terminal, top),
        print_lost(lost, terminal, top),
    ):
        if rest:
            _print_rest(terminal, rest)


def answer(sharing: Sharing, lost: Sequence[LostSharing] = ()) -> list[str]:
    """Return the answer in a few lines: what the group costs, what sharing saves."""
    totals = sharing.totals
    if not totals.processes:
        return ["No processes."]
    lines = [
        f"{count(totals.processes, 'process', 'processes')} with {size(totals.virtual_pages)} of "
        f"virtual memory, {size(totals.resident_pages)} of it resident "
        f"({count(totals.resident_pages, 'page')})."
    ]
    if totals.frames:
        known = totals.resident_pages - totals.unknown_pages
        kinds = (
            ("page cache of files", totals.file_frames),
            ("anonymous", totals.anonymous_frames),
            ("shared memory", totals.shmem_frames),
            ("other (such as the vDSO)", totals.other_frames),
        )
        parts = ", ".join(f"{size(frames)} {name}" for name, frames in kinds if frames)
        lines.append(
            f"These are {count(totals.frames, 'frame')} of physical memory, {size(totals.frames)}"
            + (f": {parts}." if parts else ".")
        )
        lines.append(
            f"Sharing saves {size(totals.saved_pages)} "
            f"({count(totals.saved_pages, 'frame')}, {percent(totals.saved_pages, known)})."
        )
    if sharing.scope is Scope.SYSTEM:
        lines.append(
            f"Their fair share (PSS), counting all processes that run: {size(sharing.share)}."
        )
    lines += _kinds_of_memory(totals)
    if lost:
        saved = sum(each.saved_frames for each in lost)
        lines.append(f"Lost sharing: {size(saved)} more if equal files were one inode (see below).")
    if engine := sharing.snapshot.meta.get("engine"):
        lines.append(f"Run on the model, with the engine {engine}.")
    return lines


def _kinds_of_memory(totals: Totals) -> Iterator[str]:
    copies = totals.copied_frames or totals.copied_pages
    if copies:
        shared = totals.copied_pages > copies
        mapped = f", mapped as {size(totals.copied_pages)}" if shared else ""
        yield f"{size(copies)} are private copies of pages of files (copy-on-write){mapped}."
    if totals.ksm_pages:
        yield (
            f"KSM has merged {size(totals.ksm_pages)} into {size(totals.ksm_frames)}: "
            f"{size(totals.ksm_pages - totals.ksm_frames)} of what sharing saves is its work."
        )
    if totals.anon_huge_pages:
        yield f"{size(totals.anon_huge_pages)} are anonymous and in transparent huge pages."
    if totals.hugetlb_pages:
        yield (
            f"Beside them {size(totals.hugetlb_frames)} of hugetlb pages are mapped as "
            f"{size(totals.hugetlb_pages)}; RSS and PSS do not count them."
        )
    if totals.swapped_pages:
        yield f"{size(totals.swapped_pages)} are swapped out."


def notes(sharing: Sharing) -> list[str]:
    """Return what a reader must know to trust the numbers; usually nothing."""
    found = []
    unknown = sharing.totals.unknown_pages
    if unknown:
        found.append(
            f"The kernel does not show the frames of {count(unknown, 'page')}: run as root (or "
            "with CAP_SYS_ADMIN) to see what is shared."
        )
    merged = int(sharing.snapshot.meta.get("frames_ksm_or_not_unknown", 0))
    if merged:
        found.append(
            f"Merged by KSM: ? of {size(merged)} (this kernel marks all anonymous pages as merged, "
            "and smaps does not show which ones are)."
        )
    for pids in same_memory(sharing):
        found.append(
            f"Processes {', '.join(map(str, pids))} have one address space (CLONE_VM, as after "
            "vfork): each of their pages counts as shared by them here. smaps counts it for each "
            "as if it were alone, so its Pss and private sums are larger."
        )
    unread = [f"{number} {words}" for number, words in incomplete(sharing.snapshot)]
    if unread:
        found.append(f"Other processes: {', '.join(unread)}.")
    calls = sharing.snapshot.unimplemented_syscalls()
    if calls:
        named = ", ".join(f"{name} ({times})" for name, times in sorted(calls.items()))
        found.append(f"System calls that the model does not have (ENOSYS): {named}.")
    return found


def incomplete(snapshot: Snapshot) -> list[tuple[int, str]]:
    """Return how many processes a capture could not read, or not wholly, and why."""
    counts = [(int(snapshot.meta.get(f"processes_{key}", 0)), words) for key, words in UNREAD]
    return [(number, words) for number, words in counts if number]


def command_line(process: Process) -> str:
    """Return how a process was called, or its name if it has no arguments (a kernel thread)."""
    return printable(" ".join(process.argv)) or f"[{printable(process.comm)}]"


def file_name(file: File) -> str:
    """Return a file's path as it is shown."""
    return printable(file.path) + (" (deleted)" if file.deleted else "")


def mapped_by(sharing: Sharing, use: FileUse, shown: int = FEW_PROCESSES) -> str:
    """Name the processes that have most of a file: "pid: pages+copies".

    All of them if there are no more than `shown`, else half as many and the number of the rest.
    """
    mappers = sorted(sharing.mappers[use.number], key=lambda m: (-m.pages - m.copied, m.pid))
    if len(mappers) > shown:
        shown //= 2
    named = [
        f"{mapper.pid}: {mapper.pages}" + (f"+{mapper.copied}" if mapper.copied else "")
        for mapper in mappers[:shown]
    ]
    if len(mappers) > shown:
        named.append(f"and {len(mappers) - shown} more")
    return ", ".join(named)


def by_cost(uses: Iterable[ProcessUse]) -> list[ProcessUse]:
    """Return processes in the order of what they cost."""
    return sorted(uses, key=lambda use: (-use.share.near, -use.usage.rss, use.process.pid))


def files_in_memory(sharing: Sharing) -> list[FileUse]:
    """Return the files of which a process has pages or copies, by what their sharing saves."""
    files = [use for use in sharing.files if use.mapped_pages or use.copied_pages]
    return sorted(
        files,
        key=lambda use: (
            -use.saved_pages,
            -use.mapped_pages - use.copied_pages,
            use.file.path,
            use.number,
        ),
    )


_PROCESS_COLUMNS = [
    Column("PROCESS", cut=Cut.COMMAND),
    Column("PID"),
    Column("PSS"),
    Column("USS", rank=2),
    Column("RSS", rank=1),
    Column("ANON", rank=4),
    Column("HUGETLB", rank=3),
    Column("SWAP", rank=5),
    Column("EXIT", rank=3),
    Column("MINOR FAULTS", rank=6),
    Column("MAJOR", rank=7),
]


def _print_processes(sharing: Sharing, terminal: Terminal, top: int | None) -> None:
    uses = by_cost(sharing.processes)
    rows = []
    for use in uses[:top]:
        process, usage = use.process, use.usage
        costs = (use.share, usage.uss, usage.rss, usage.anonymous)
        rows.append(
            [
                command_line(process),
                str(process.pid),
                *(size(pages) for pages in costs),
                *(size(pages) if pages else "" for pages in (usage.hugetlb, usage.swap)),
                "" if process.exit_code is None else str(process.exit_code),
                f"{process.minor_faults:,}",
                f"{process.major_faults:,}",
            ]
        )
    terminal.print_table(_PROCESS_COLUMNS, rows)
    rest = uses[len(rows) :]
    if rest:
        pss = size(together(use.share for use in rest))
        _print_rest(terminal, len(rest), f" with a PSS of {pss}")


def _print_forks(sharing: Sharing, terminal: Terminal, top: int | None) -> None:
    forks = Forks(sharing)
    few = sharing.snapshot.meta.get("processes_wanted") == "some"
    if few and len(sharing.processes) <= FEW_PROCESSES:
        several = len(sharing.processes) > 1
        for use in by_cost(sharing.processes):
            rest = print_vmas(sharing, use, forks, terminal, FEW_VMAS if several and top else top)
            if rest:
                _print_rest(terminal, rest)
    rest = print_families(sharing, forks, terminal, top)
    if rest:
        _print_rest(terminal, rest)


def _print_rest(terminal: Terminal, number: int, what: str = "") -> None:
    terminal.print(f"  and {number} more{what} (--top 0 shows all)")


_FILE_COLUMNS = [
    Column("FILE", cut=Cut.PATH),
    Column("USED BY", rank=3),
    Column("MAPPED", rank=2),
    Column("FRAMES"),
    Column("SAVED"),
    Column("COPIED", rank=1),
    Column("INODE", rank=4),
]


def _print_files(sharing: Sharing, terminal: Terminal, top: int | None) -> None:
    uses = files_in_memory(sharing)
    if not uses:
        return
    visible = sharing.snapshot.frames_visible
    few = len(sharing.processes) <= FEW_PROCESSES
    rows = [
        [
            file_name(use.file) + (f"\n  {mapped_by(sharing, use)}" if few else ""),
            str(use.processes),
            size(use.mapped_pages),
            size_if(visible, use.frames),
            size_if(visible, use.saved_pages),
            size(use.copied_frames if visible else use.copied_pages),
            str(use.file.ino),
        ]
        for use in uses[:top]
    ]
    terminal.print_table(
        _FILE_COLUMNS,
        rows,
        "Files (below each, by pid: pages mapped + copied on write)" if few else "",
    )
    rest = uses[len(rows) :]
    if rest:
        _print_rest(terminal, len(rest), f" with {size(sum(use.frames for use in rest))} of frames")


def _print_grouping(
    sharing: Sharing, kind: str, found: list[GroupUse], terminal: Terminal, top: int | None
) -> None:
    rest = print_groups(sharing, kind, found, terminal, top)
    if rest:
        _print_rest(terminal, rest)
