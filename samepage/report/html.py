"""The report as one HTML page that needs nothing else, and loads nothing.

It has the answer, the processes with their VMAs, and for each file a picture of its pages
(`page_svg`). Equal processes are one row that opens. Every name in it comes from the machine that
was looked at, so everything is escaped, and the page's own policy forbids to load anything, and to
run anything but the one script that sorts a table by the column that was clicked.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TextIO

from samepage.analysis.cgroup_memory import CgroupAccounts
from samepage.analysis.groups import GroupUse
from samepage.analysis.lost_sharing import LostSharing, lost_sharing
from samepage.analysis.machine_memory import machine_memory
from samepage.analysis.old_versions import OldVersion, old_versions
from samepage.analysis.page_map import PageMap, page_maps
from samepage.analysis.shares import Share, together
from samepage.analysis.sharing import FileUse, ProcessUse, Sharing, Usage, VmaUse
from samepage.report import page_svg
from samepage.report.cgroup_text import group_rows, machine_rows
from samepage.report.file_text import times_copied, times_mapped
from samepage.report.group_text import TITLES, charged, group_name, groupings
from samepage.report.html_page import END, HEAD, Opens, table
from samepage.report.lost_text import OLD_TITLE, in_containers, who
from samepage.report.sizes import count, printable, size, size_if
from samepage.report.text import (
    answer,
    by_cost,
    command_line,
    file_name,
    files_in_memory,
    mapped_by,
    notes,
)
from samepage.snapshot.columns import PAGE_SHIFT

OPEN_PICTURES = 3
"""How many pictures are shown at once; the others open."""

PICTURES = 60
"""How many files get a picture: those with most frames. The table has all."""


def write(sharing: Sharing, stream: TextIO) -> None:
    """Write the page, part by part."""
    for part in parts(sharing):
        stream.write(part)


def parts(sharing: Sharing) -> Iterable[str]:
    """Yield the page in pieces."""
    lost = lost_sharing(sharing)
    yield HEAD
    yield "".join(f'<p class="answer">{escape(line)}</p>\n' for line in answer(sharing, lost))
    yield "".join(f'<p class="note">{escape(line)}</p>\n' for line in notes(sharing))
    yield _origin(sharing)
    sections = list(_sections(sharing, lost))
    links = (
        f'<li><a href="#section-{number}">{escape(title)}</a></li>'
        for number, (title, _) in enumerate(sections)
    )
    yield f"<nav><ul>{''.join(links)}</ul></nav>\n"
    for number, (title, content) in enumerate(sections):
        yield f'<h2 id="section-{number}">{escape(title)}</h2>\n'
        yield from content
    yield END


def _sections(sharing: Sharing, lost: Sequence[LostSharing]) -> Iterable[tuple[str, Iterable[str]]]:
    """Yield the title and the content of each section."""
    yield "Processes", _processes(sharing)
    for kind, groups in groupings(sharing):
        yield TITLES[kind], _groups(sharing, kind, groups)
    yield from _memory(sharing)
    old = old_versions(sharing)
    if old:
        yield OLD_TITLE, [_old(old)]
    if lost:
        yield "Lost sharing: equal content under several inodes", [_lost(lost)]
    uses = files_in_memory(sharing)
    yield "Files", [_files(sharing, uses)]
    yield "Pages of the files", _pictures(sharing, uses)


def _origin(sharing: Sharing) -> str:
    meta = sharing.snapshot.meta
    keys = ("source", "engine", "host", "kernel", "time")
    known = [f"{key} {meta[key]}" for key in keys if key in meta]
    return f"<p><small>{escape(printable(', '.join(known)))}</small></p>\n"


_PROCESS_TITLES = [
    *("Program", "PID", "RSS", "PSS", "USS", "Shared clean", "Shared dirty", "Private clean"),
    *("Private dirty", "Hugetlb", "Swap", "Minor faults", "Major faults", "Exit"),
]


def _processes(sharing: Sharing) -> Iterable[str]:
    """Yield the table of processes: those that run the same are one row, which opens."""
    equal: dict[tuple[object, ...], list[ProcessUse]] = {}
    for use in by_cost(sharing.processes):
        process = use.process
        key = (process.argv, process.comm, process.exe, process.uid, process.container)
        equal.setdefault(key, []).append(use)
    rows = [
        _process_row(sharing, uses[0]) if len(uses) == 1 else _workers_row(sharing, uses)
        for uses in sorted(equal.values(), key=lambda uses: -sum(use.share.near for use in uses))
    ]
    yield table(_PROCESS_TITLES, rows)


def _workers_row(sharing: Sharing, uses: list[ProcessUse]) -> list[str | Opens]:
    """Return the row of processes that run the same: their sums."""
    usage = Usage(*map(sum, zip(*(use.usage for use in uses), strict=True)))
    name = f"{len(uses)} x {command_line(uses[0].process)}"
    faults = [
        sum(faults)
        for faults in zip(
            *((use.process.minor_faults, use.process.major_faults) for use in uses), strict=True
        )
    ]
    content = table(_PROCESS_TITLES, [_process_row(sharing, use) for use in uses])
    numbers = _numbers(usage, together(use.share for use in uses))
    return [Opens(name, content), "", *numbers, *(f"{n:,}" for n in faults), ""]


def _process_row(sharing: Sharing, use: ProcessUse) -> list[str | Opens]:
    process = use.process
    code = "" if process.exit_code is None else str(process.exit_code)
    titles = ["Name", "Address", "Perms", "Offset", "Size", "RSS", "PSS", "USS", "Anonymous"]
    vmas = table(titles, [_vma_row(vma) for vma in sharing.vmas(use.number)])
    return [
        Opens(command_line(process), vmas),
        str(process.pid),
        *_numbers(use.usage, use.share),
        f"{process.minor_faults:,}",
        f"{process.major_faults:,}",
        code,
    ]


def _numbers(usage: Usage, share: Share) -> list[str]:
    divided = (usage.shared_clean, usage.shared_dirty, usage.private_clean, usage.private_dirty)
    numbers = (usage.rss, share, usage.uss, *divided, usage.hugetlb, usage.swap)
    return [size(number) for number in numbers]


def _vma_row(vma: VmaUse) -> list[str]:
    return [
        printable(vma.mapping.name),
        f"{vma.start:x}-{vma.end:x}",
        vma.mapping.perms,
        f"{vma.mapping.offset:x}",
        size((vma.end - vma.start) >> PAGE_SHIFT),
        size(vma.usage.rss),
        size(vma.share),
        size(vma.usage.uss),
        size(vma.usage.anonymous),
    ]


def _groups(sharing: Sharing, kind: str, groups: Sequence[GroupUse]) -> Iterable[str]:
    titles = [TITLES[kind][:-1], "Processes", "RSS", "PSS", "Frames", "Own frames"]
    titles += ["Freed by its end", "Charged to it"]
    yield table(titles, [_group_row(sharing, kind, group) for group in groups])


def _group_row(sharing: Sharing, kind: str, group: GroupUse) -> list[str]:
    visible = sharing.snapshot.frames_visible
    frames = (
        size_if(visible, number) for number in (group.frames, group.own_frames, group.freed_frames)
    )
    name = group_name(sharing.snapshot, kind, group)
    last = charged(CgroupAccounts(sharing), kind, group)
    return [name, str(len(group.processes)), size(group.rss), size(group.share), *frames, last]


def _memory(sharing: Sharing) -> Iterable[tuple[str, Iterable[str]]]:
    """Yield the sections on what control groups and the machine are charged for."""
    titles, rows = group_rows(sharing)
    if rows:
        yield "Memory of control groups, by who is charged for it", [table(titles, rows)]
    memory = machine_memory(sharing)
    if memory is not None and sharing.snapshot.meta.get("processes_wanted") == "all":
        yield "Memory of the machine", [table(["Kind", ""], machine_rows(memory))]


def _old(found: Sequence[OldVersion]) -> str:
    rows = []
    for old in found:
        users = [use.process for use in old.processes]
        users_in_words = who(users, any(user.container for user in users))
        restart = ", ".join(map(printable, old.restart))
        rows.append([printable(old.use.file.path), users_in_words, restart, size(old.frames)])
    return table(["File", "Mapped by", "Restart", "Frames"], rows)


def _lost(lost: Sequence[LostSharing]) -> str:
    rows = []
    for each in lost:
        contained = in_containers(each)
        rows.append([printable(each.name), "", "", size(each.frames), size(each.saved_frames)])
        rows += [
            [
                printable(twin.use.file.path),
                who(twin.processes, contained),
                twin.cause.value if twin.cause else "",
                size(twin.use.cached_frames),
                "",
            ]
            for twin in each.twins
        ]
    return table(["File", "Mapped by", "Why", "Frames", "Would save"], rows)


def _files(sharing: Sharing, uses: Sequence[FileUse]) -> str:
    visible = sharing.snapshot.frames_visible
    rows = [
        [
            *(file_name(use.file), str(use.file.ino), str(use.processes), size(use.mapped_pages)),
            *(size_if(visible, number) for number in (use.frames, use.saved_pages)),
            *(size(pages) for pages in (use.copied_frames, use.copied_pages)),
        ]
        for use in uses
    ]
    return table(
        ["File", "Inode", "Processes", "Mapped", "Frames", "Saved", "Copies", "Copies mapped"], rows
    )


def _pictures(sharing: Sharing, uses: Sequence[FileUse]) -> Iterable[str]:
    yield _legend()
    drawn = sorted(uses, key=lambda use: (-use.frames - use.copied_pages, use.file.path))[:PICTURES]
    maps = page_maps(sharing, [use.number for use in drawn])
    for number, use in enumerate(drawn):
        yield _picture(sharing, use, maps[use.number], number < OPEN_PICTURES)
    if len(uses) > PICTURES:
        yield f"<p>{count(len(uses) - PICTURES, 'smaller file')} not drawn.</p>\n"


def _picture(sharing: Sharing, use: FileUse, page_map: PageMap, is_open: bool) -> str:
    total = -(-(use.file.size or 0) >> PAGE_SHIFT)
    words = (
        f"{count(total, 'page')}. Mapped, by times: {times_mapped(sharing, use)}. "
        f"Copied, by processes: {times_copied(page_map.copied_runs())}. "
        f"By pid, mapped + copied: {mapped_by(sharing, use, 12)}"
    )
    return (
        f'<details{" open" if is_open else ""} class="picture">'
        f"<summary>{escape(file_name(use.file))}</summary>\n"
        f"<p><small>{escape(words)}</small></p>\n"
        f'<div class="scroll">{page_svg.picture(page_map, total)}</div></details>\n'
    )


def _legend() -> str:
    states = [("absent", "not in memory"), ("cached", "in the page cache, not mapped")]
    lowest = page_svg.LEVELS
    for level, least in enumerate(lowest, 1):
        above = f" to {lowest[level] - 1}" if level < len(lowest) else " or more"
        exact = level < len(lowest) and lowest[level] == least + 1
        times = f"{least}{'' if exact else above}"
        states.append((f"m{level}", f"mapped {times} times" if least > 1 else "mapped once"))
    states.append(("copied", "copied (copy-on-write)"))
    marks = (
        f'<span><svg width="11" height="11"><rect class="{name}" width="11" height="11"/></svg>'
        f"{words}</span>"
        for name, words in states
    )
    return f'<p class="legend">{"".join(marks)}</p>\n'
