"""The report as one HTML page that needs nothing else: no network, no script.

It has the answer, the processes with their VMAs, and for each file a picture of its pages
(`page_svg`). Every name in it comes from the machine that was looked at, so everything is
escaped, and the page's own policy forbids to load or run anything.
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
from samepage.analysis.sharing import FileUse, ProcessUse, Sharing, VmaUse
from samepage.report import page_svg
from samepage.report.cgroup_text import group_rows, machine_rows
from samepage.report.file_text import times_copied, times_mapped
from samepage.report.group_text import TITLES, charged, group_name, groupings
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

PICTURES = 60
"""How many files get a picture: those with most frames. The table has all."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --absent: #8882; --cached: #8886;
  --copied: #d9480f; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.answer { font-size: 1.1rem; } .note { color: #b35900; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
th.name, td.name { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.code { font-family: ui-monospace, monospace; }
summary { cursor: pointer; } small { opacity: .75; }
svg.pages { max-width: 100%; height: auto; display: block; margin: .4rem 0 1rem; }
.legend span { display: inline-block; margin-right: 1rem; }
.legend svg { vertical-align: middle; margin-right: .3rem; }
rect.absent { fill: var(--absent); } rect.cached { fill: var(--cached); }
rect.copied { fill: var(--copied); stroke: var(--copied); }
rect.m1 { fill: #a5d8ff; } rect.m2 { fill: #74c0fc; } rect.m3 { fill: #4dabf7; }
rect.m4 { fill: #228be6; } rect.m5 { fill: #1971c2; } rect.m6 { fill: #1864ab; }
rect.m7 { fill: #0b3d6e; }
rect.copied.m1, rect.copied.m2, rect.copied.m3, rect.copied.m4, rect.copied.m5,
rect.copied.m6, rect.copied.m7 { stroke-width: 3; paint-order: stroke; }
"""

HEAD = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>samepage report</title>
<style>{STYLE}</style>
</head>
<body>
<h1>samepage report</h1>
"""


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
    yield "<h2>Processes</h2>\n"
    yield from _processes(sharing)
    for kind, groups in groupings(sharing):
        title = TITLES[kind]
        yield f"<h2>{title}</h2>\n"
        yield _table(
            [
                *(title[:-1], "Processes", "RSS", "PSS", "Frames", "Own frames"),
                *("Freed by its end", "Charged to it"),
            ],
            [_group_row(sharing, kind, group) for group in groups],
        )
    yield from _memory(sharing)
    old = old_versions(sharing)
    if old:
        yield f"<h2>{OLD_TITLE}</h2>\n"
        yield _old(old)
    if lost:
        yield "<h2>Lost sharing: equal content under several inodes</h2>\n"
        yield _lost(lost)
    yield from _files(sharing)
    yield "</body>\n</html>\n"


def _origin(sharing: Sharing) -> str:
    meta = sharing.snapshot.meta
    known = [f"{key} {meta[key]}" for key in ("source", "host", "kernel", "time") if key in meta]
    return f"<p><small>{escape(printable(', '.join(known)))}</small></p>\n"


def _processes(sharing: Sharing) -> Iterable[str]:
    uses = by_cost(sharing.processes)
    titles = ["Program", "PID", "RSS", "PSS", "USS", "Shared clean", "dirty", "Private clean"]
    titles += ["dirty", "Hugetlb", "Swap", "Minor faults", "Major", "Exit"]
    yield _table(titles, [_process_row(use) for use in uses])
    for use in uses:
        name = f"{use.process.pid} {escape(command_line(use.process))}"
        yield f"<details><summary>VMAs of {name}</summary>\n"
        rows = [_vma_row(vma) for vma in sharing.vmas(use.number)]
        yield _table(
            ["Name", "Address", "Perms", "Offset", "Size", "RSS", "PSS", "USS", "Anonymous"], rows
        )
        yield "</details>\n"


def _process_row(use: ProcessUse) -> list[str]:
    process, usage = use.process, use.usage
    divided = (usage.shared_clean, usage.shared_dirty, usage.private_clean, usage.private_dirty)
    code = "" if process.exit_code is None else str(process.exit_code)
    return [
        command_line(process),
        str(process.pid),
        *(size(number) for number in (usage.rss, use.share, usage.uss)),
        *(size(number) for number in (*divided, usage.hugetlb, usage.swap)),
        f"{process.minor_faults:,}",
        f"{process.major_faults:,}",
        code,
    ]


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


def _group_row(sharing: Sharing, kind: str, group: GroupUse) -> list[str]:
    visible = sharing.snapshot.frames_visible
    frames = (
        size_if(visible, number) for number in (group.frames, group.own_frames, group.freed_frames)
    )
    name = group_name(sharing.snapshot, kind, group)
    last = charged(CgroupAccounts(sharing), kind, group)
    return [name, str(len(group.processes)), size(group.rss), size(group.share), *frames, last]


def _memory(sharing: Sharing) -> Iterable[str]:
    """Yield what control groups and the machine are charged for."""
    titles, rows = group_rows(sharing)
    if rows:
        yield "<h2>Memory of control groups, by who is charged for it</h2>\n"
        yield _table(titles, rows)
    memory = machine_memory(sharing)
    if memory is not None and sharing.snapshot.meta.get("processes_wanted") == "all":
        yield "<h2>Memory of the machine</h2>\n"
        yield _table(["Kind", ""], machine_rows(memory))


def _old(found: Sequence[OldVersion]) -> str:
    rows = []
    for old in found:
        users = [use.process for use in old.processes]
        users_in_words = who(users, any(user.container for user in users))
        restart = ", ".join(map(printable, old.restart))
        rows.append([printable(old.use.file.path), users_in_words, restart, size(old.frames)])
    return _table(["File", "Mapped by", "Restart", "Frames"], rows)


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
    return _table(["File", "Mapped by", "Why", "Frames", "Would save"], rows)


def _files(sharing: Sharing) -> Iterable[str]:
    uses = files_in_memory(sharing)
    visible = sharing.snapshot.frames_visible
    yield "<h2>Files</h2>\n"
    rows = [
        [
            *(file_name(use.file), str(use.file.ino), str(use.processes), size(use.mapped_pages)),
            *(size_if(visible, number) for number in (use.frames, use.saved_pages)),
            *(size(pages) for pages in (use.copied_frames, use.copied_pages)),
        ]
        for use in uses
    ]
    yield _table(
        ["File", "Inode", "Processes", "Mapped", "Frames", "Saved", "Copies", "mapped"], rows
    )
    yield "<h2>Pages of the files</h2>\n" + _legend()
    drawn = sorted(uses, key=lambda use: (-use.frames - use.copied_pages, use.file.path))[:PICTURES]
    maps = page_maps(sharing, [use.number for use in drawn])
    for use in drawn:
        yield _picture(sharing, use, maps[use.number])
    if len(uses) > PICTURES:
        yield f"<p>{count(len(uses) - PICTURES, 'smaller file')} not drawn.</p>\n"


def _picture(sharing: Sharing, use: FileUse, page_map: PageMap) -> str:
    total = -(-(use.file.size or 0) >> PAGE_SHIFT)
    words = (
        f"{count(total, 'page')}. Mapped, by times: {times_mapped(sharing, use)}. "
        f"Copied, by processes: {times_copied(page_map.copied_runs())}. "
        f"By pid, mapped + copied: {mapped_by(sharing, use, 12)}"
    )
    return (
        f"<h3>{escape(file_name(use.file))}</h3>\n<p><small>{escape(words)}</small></p>\n"
        f"{page_svg.picture(page_map, total)}\n"
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


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column holds names, and whose other columns hold numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        first = f'<{tag} class="name">{escape(cells[0])}</{tag}>'
        return f"<tr>{first}{''.join(f'<{tag}>{escape(c)}</{tag}>' for c in cells[1:])}</tr>\n"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>\n{line("th", titles)}{body}</table></div>\n'
