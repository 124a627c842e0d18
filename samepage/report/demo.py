"""The demonstration for people: each step a sentence, and a table of what was found.

Nothing in the tables is known beforehand: every cell is a number of the evidence. The
columns are the model and, where frame numbers can be seen, the live kernel.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import TextIO

from samepage.demo.evidence import ActReport, Evidence, Story, Write
from samepage.report.sizes import printable, size
from samepage.report.tables import Column, Cut, Terminal

SCHEMA_VERSION = 1
_SHOWN_PAGES = 6

ANSWER = (
    "Who puts the library's text into physical memory, when, and how is it known to be there "
    "already? The kernel does, not ld.so, and not at mmap but at the first touch of a page: "
    "the page fault looks the page up in the page cache under (device, inode, file page), "
    "reads it from the file only if no process has before, and enters its frame in the page table "
    "of the process, so the next program's fault finds the same frame under the same key."
)

Cell = Callable[[Evidence], str]


def print_story(story: Story, terminal: Terminal) -> None:
    """Print all acts, what was left out, and the answer."""
    for number, act in enumerate(story.acts, 1):
        _print_act(number, act, terminal)
    for reason in story.skipped:
        _line(terminal, reason, style="note")
        terminal.print()
    _line(terminal, ANSWER, style="bold")


def write_json(story: Story, stream: TextIO) -> None:
    """Write the evidence as one JSON document: the fields of `samepage.demo.evidence`."""
    document = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(story), "answer": ANSWER}
    json.dump(document, stream, indent=2)
    stream.write("\n")


def _print_act(number: int, act: ActReport, terminal: Terminal) -> None:
    library = act.library
    first, second = act.first[0], act.second[0]
    name = printable(os.path.basename(library.path))
    terminal.print(f"Act {number}. {act.title}", "heading")
    _line(
        terminal,
        f"{_command(act.first)}\n{_command(act.second)}\nboth use {printable(library.path)}: "
        f"{size(library.pages)}, known to the kernel as device "
        f"{os.major(library.device)}:{os.minor(library.device)}, inode {library.inode}.",
    )
    if act.about:
        _line(terminal, act.about)
    if act.cold:
        start = f"{name} is in no page cache at the start: it must come from the disk."
        if act.live is not None and act.live.mapped.cached_before:
            start += " (On the model. The live kernel did not drop it when we asked.)"
        _line(terminal, start)
    if act.no_live:
        _line(terminal, f"Only on the model; on the live kernel not: {act.no_live}.", style="note")
    terminal.print()
    _step_mapped(act, terminal, first, name)
    _step_call(act, terminal, first, name)
    _step_second(act, terminal, first, second)
    _step_write(act, terminal, first, second)
    _step_sum(act, terminal)


def _step_mapped(act: ActReport, terminal: Terminal, first: str, name: str) -> None:
    _heading(terminal, 1, "mmap gives addresses, and no memory")
    _line(
        terminal,
        f"ld.so has mapped the segments of {name} into {first}, the last mmap has just "
        "returned. The kernel noted which addresses show which part of the file.",
    )
    _facts(
        act,
        terminal,
        ("base address that mmap returned", lambda e: f"{e.mapped.base:#x}"),
        ("pages of addresses", lambda e: str(e.mapped.virtual_pages)),
        ("frames in the page table for it", lambda e: str(e.mapped.present_pages)),
        ("file pages in the page cache before", lambda e: str(e.mapped.cached_before)),
        ("... and now (ld.so has read the header)", lambda e: str(e.mapped.cached_pages)),
    )
    if act.live is not None and not act.cold:
        _line(
            terminal,
            "(On this system the file had been read before. The model counts it as read too, "
            "but gives a page its frame only when it is first used, so that it can be seen.)",
        )
        terminal.print()


def _step_call(act: ActReport, terminal: Terminal, first: str, name: str) -> None:
    call = act.model.call
    _heading(terminal, 2, f"The first call into the library: {call.function}")
    _line(
        terminal,
        f"{first} calls {printable(call.function)}, whose code is in page {call.file_page} of the "
        "file. "
        + (
            "Fetching it faults; the kernel maps that page, and those around it (64 KiB) that the "
            "page cache has."
            if call.fetch_pages
            else "That page is there already: a fault on a page near it has mapped it along."
        ),
    )
    _facts(
        act,
        terminal,
        ("pages that this fetch made present", lambda e: str(e.call.fetch_pages)),
        (f"frame of {call.function}'s page", lambda e: str(e.call.frame)),
        (
            "library pages now present, of all",
            lambda e: f"{len(e.call.present)} of {e.mapped.virtual_pages}",
        ),
        ("file pages in the page cache now", lambda e: str(e.call.cached_pages)),
        ("faults since step 1, whole process", lambda e: str(e.call.minor + e.call.major)),
        ("... that read from the disk (major)", lambda e: str(e.call.major)),
    )
    _line(terminal, f"The faults on {name}, one by one, as the model records them:")
    columns = [
        Column("Fault"),
        Column("File page"),
        Column("Mapped", 1),
        Column("Frame", 2),
        Column("Cache", 3),
        Column("By", cut=Cut.FOLD),
    ]
    rows = [
        [
            fault.kind,
            str(fault.file_page),
            str(fault.pages),
            str(fault.frame),
            "hit" if fault.cached else "miss",
            printable(fault.by),
        ]
        for fault in call.faults
    ]
    terminal.print_table(columns, rows)
    terminal.print()


def _step_second(act: ActReport, terminal: Terminal, first: str, second: str) -> None:
    _heading(terminal, 3, "A second program: the same frames")
    _line(
        terminal,
        f"{first} stays at its end, {second} runs to its own. Its mmap is another one; its "
        "faults find the pages in the page cache by the inode, whatever the address.",
    )
    _facts(
        act,
        terminal,
        (f"base address in {second}", lambda e: f"{e.second.base:#x}"),
        ("frames for it right after mmap", lambda e: str(e.second.present_at_map)),
        ("file pages that both map", lambda e: str(len(e.second.shared))),
        (
            "... in the same frame, the page cache's",
            lambda e: str(
                sum(p.first_frame == p.second_frame == p.cache_frame for p in e.second.shared)
            ),
        ),
        (f"file pages that only {first} maps", lambda e: str(e.second.only_first)),
        (f"file pages that only {second} maps", lambda e: str(e.second.only_second)),
        ("new frames in the page cache for it", lambda e: str(e.second.new_frames)),
    )
    _print_frames(act, terminal)


def _print_frames(act: ActReport, terminal: Terminal) -> None:
    """Some of the shared pages with their frame numbers, the called function's among them."""
    sides = {"model": act.model, "live": act.live}
    frames = {
        (name, page.file_page): page
        for name, evidence in sides.items()
        if evidence is not None
        for page in evidence.second.shared
    }
    numbers = sorted({number for _, number in frames})
    called = act.model.call.file_page
    shown = {called} | set(numbers[:: max(1, len(numbers) // (_SHOWN_PAGES - 1))])
    columns = [Column("File page", cut=Cut.END)]
    for name in ("Model", "Live") if act.live else ("Model",):
        columns += [Column(f"{name}: 1st"), Column("2nd"), Column("cache", 1)]
    rows = []
    for number in sorted(shown & set(numbers)):
        row = [f"{number} ({act.model.call.function})" if number == called else str(number)]
        for name in ("model", "live") if act.live else ("model",):
            page = frames.get((name, number))
            found = (page.first_frame, page.second_frame, page.cache_frame) if page else ()
            row += [str(frame) for frame in found] or ["-"] * 3
        rows.append(row)
    _line(terminal, "Frame numbers of some, in both programs' page tables and in the page cache:")
    terminal.print_table(columns, rows)
    terminal.print()


def _step_write(act: ActReport, terminal: Terminal, first: str, second: str) -> None:
    write = act.model.write
    _heading(terminal, 4, "A write to private data: a copy for the writer")
    if write is None:
        _line(terminal, f"{second} wrote to no page of the library's data that it had seen before.")
        terminal.print()
        return
    _line(
        terminal,
        f"{second} sees page {write.file_page} of the file in the page cache's frame, and then "
        f"writes to it ({printable(write.by) or 'ld.so or the program'}). The kernel copies the "
        f"page to a new frame for {second} alone.",
    )

    def row(cell: Callable[[Write], str]) -> Cell:
        return lambda evidence: cell(evidence.write) if evidence.write else "-"

    _facts(
        act,
        terminal,
        (f"frame in {second} before the write", row(lambda w: str(w.frame_before))),
        ("... after it", row(lambda w: str(w.frame_after))),
        (f"frame in {first} before", row(lambda w: str(w.first_frame_before))),
        ("... after", row(lambda w: str(w.first_frame_after))),
        ("frame in the page cache", row(lambda w: str(w.cache_frame))),
        (f"first changed word, in {second}", row(lambda w: f"{w.second_word:#x}")),
        (f"... in {first}", row(lambda w: f"{w.first_word_after:#x}")),
        ("... in the page cache", row(lambda w: f"{w.cache_word:#x}")),
        ("... in the file on disk", row(lambda w: f"{w.file_word:#x}")),
        (f"page of {first} unchanged", row(lambda w: _yes(w.first_unchanged))),
        ("page cache equals file", row(lambda w: _yes(w.file_unchanged))),
        (
            "pages copied by the two",
            row(lambda w: f"{len(w.copied_by_first)} and {len(w.copied_by_second)}"),
        ),
    )


def _step_sum(act: ActReport, terminal: Terminal) -> None:
    _heading(terminal, 5, "The sum")
    _facts(
        act,
        terminal,
        ("library: pages of addresses, twice", lambda e: str(e.sum.virtual_pages)),
        ("library: pages present", lambda e: str(e.sum.present_pages)),
        ("library: frames used", lambda e: str(e.sum.frames)),
        ("library: frames saved by sharing", lambda e: str(e.sum.saved)),
        ("all: pages of addresses", lambda e: str(e.sum.all_virtual_pages)),
        ("all: pages present", lambda e: str(e.sum.all_present_pages)),
        ("all: frames used", lambda e: str(e.sum.all_frames)),
        ("all: frames saved by sharing", lambda e: str(e.sum.all_saved)),
    )


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _command(argv: list[str]) -> str:
    return "    " + printable(" ".join(argv))


def _heading(terminal: Terminal, number: int, title: str) -> None:
    terminal.print(f"{number}. {printable(title)}", "bold")


def _line(terminal: Terminal, words: str, style: str = "") -> None:
    terminal.print(words, style)


def _facts(act: ActReport, terminal: Terminal, *facts: tuple[str, Cell]) -> None:
    sides = [act.model] if act.live is None else [act.model, act.live]
    columns = [Column("", cut=Cut.FOLD), Column("Model"), Column("Live kernel")]
    rows = [[printable(label), *(cell(side) for side in sides)] for label, cell in facts]
    terminal.print_table(columns[: 1 + len(sides)], rows)
    terminal.print()
