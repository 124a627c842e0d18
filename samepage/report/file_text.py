"""One file in a few lines: how many of its pages are mapped how often, which were copied.

/usr/lib/x86_64-linux-gnu/libc.so.6 (inode 339380, 471 pages)
  mapped, by times:      2: 284
  copied, by processes:  2: 6 (pages 465-470)
  pid: mapped + copied:  2: 284+6, 3: 284+6
"""

from collections.abc import Iterator

from samepage.analysis.page_map import CopiedRun, page_maps
from samepage.analysis.sharing import FileUse, Sharing
from samepage.errors import SamepageError
from samepage.report.sizes import count
from samepage.report.tables import Terminal, folded
from samepage.report.text import file_name, files_in_memory, mapped_by
from samepage.snapshot.columns import PAGE_SHIFT


def print_files(sharing: Sharing, name: str, terminal: Terminal) -> None:
    """Print the files whose path ends in `name`. Raises `SamepageError` if there is none."""
    uses = [
        use
        for use in files_in_memory(sharing)
        if use.file.path == name or use.file.path.endswith("/" + name)
    ]
    if not uses:
        raise SamepageError(f"no process has pages of a file whose path ends in /{name}")
    maps = page_maps(sharing, [use.number for use in uses])
    for use in uses:
        for line in file_lines(sharing, use, maps[use.number].copied_runs()):
            # A line does not end between a number and its colon's other side.
            for part in folded(line.replace(": ", ":\xa0"), terminal.width):
                terminal.print(part.replace("\xa0", " "))


def file_lines(sharing: Sharing, use: FileUse, copies: list[CopiedRun]) -> Iterator[str]:
    """Yield the lines about one file."""
    pages = "" if use.file.size is None else f", {count(-(-use.file.size >> PAGE_SHIFT), 'page')}"
    yield f"{file_name(use.file)} (inode {use.file.ino}{pages})"
    yield f"  mapped, by times:      {times_mapped(sharing, use)}"
    yield f"  copied, by processes:  {times_copied(copies)}"
    yield f"  pid: mapped + copied:  {mapped_by(sharing, use, use.processes)}"


def times_mapped(sharing: Sharing, use: FileUse) -> str:
    """Return how many pages are mapped how often: "1: 3, 2: 281"."""
    if not sharing.snapshot.frames_visible:
        return "not known without frame numbers"
    degrees = sorted(sharing.degrees[use.number].items())
    return ", ".join(f"{times}: {pages:,}" for times, pages in degrees) or "none"


def times_copied(copies: list[CopiedRun]) -> str:
    """Return of how many pages so many processes have a copy, and which these are."""
    parts = []
    for processes in sorted({run.processes for run in copies}):
        runs = [run for run in copies if run.processes == processes]
        total = sum(run.pages for run in runs)
        which = ", ".join(_pages(run) for run in runs)
        parts.append(f"{processes}: {total:,} ({'page' if total == 1 else 'pages'} {which})")
    return "; ".join(parts) or "none"


def _pages(run: CopiedRun) -> str:
    last = run.first + run.pages - 1
    return f"{run.first}-{last}" if run.pages > 1 else str(run.first)
