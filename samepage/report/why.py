"""The answer of `samepage why`, as text and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from samepage.analysis.copies import Cause
from samepage.analysis.what_if import WhatIf
from samepage.analysis.why import Why
from samepage.report.sizes import count, size
from samepage.report.tables import FILE_WIDTH, Column, Cut, Terminal
from samepage.snapshot.columns import PAGE_SIZE

VERSION = 1
"""Of the JSON document; a change that breaks readers raises it."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was looked at: `processes` as (pid, command name), for `seconds`, with so many
    `epochs` of re-armed pages; `missing` has a line for each thing that could not be seen;
    `suppositions` are the answers to --what-if; `notes` name which functions have no names;
    `model`: the kernel was the model's."""

    processes: Sequence[tuple[int, str]]
    seconds: float
    epochs: int
    missing: Sequence[str] = ()
    suppositions: Sequence[WhatIf] = ()
    notes: Sequence[str] = ()
    model: bool = False


def print_why(why: Why, seen: Observation, terminal: Terminal, *, top: int | None) -> None:
    """Print the answer in words and two tables; `top` limits their rows."""
    for line in words(why, seen):
        terminal.print(line)
    if not why.by_class:
        return
    classes = [_row(cause, why.classes[cause.function].title) for cause in why.by_class]
    terminal.print_table(_columns(why, "CAUSE"), classes[:top], "Causes")
    functions = [
        _row(cause, f"{why.functions[cause.function]} ({_file(why, cause)})")
        for cause in why.by_function
    ]
    terminal.print_table(_columns(why, "FUNCTION"), functions[:top], "Functions that write")
    if why.by_script:
        scripts = [
            _row(cause, f"{why.functions[cause.function]} ({_file(why, cause)})")
            for cause in why.by_script
        ]
        terminal.print_table(_columns(why, "FUNCTION"), scripts[:top], "In functions of scripts")
    areas = [
        [size(area.pages), f"{area.pages:,}", f"{area.processes:,}", str(area.area)]
        for area in why.by_area
    ]
    terminal.print_table(
        [Column("COPIED"), Column("PAGES"), Column("PROCESSES", 2), Column("MEMORY", cut=Cut.PATH)],
        areas[:top],
        "Memory that was copied",
    )
    for line in remedies(why):
        terminal.print(line)


def write_text(why: Why, seen: Observation, stream: TextIO) -> None:
    """Write the whole answer as text."""
    print_why(why, seen, Terminal(stream, FILE_WIDTH), top=None)


def write_json(why: Why, seen: Observation, stream: TextIO) -> None:
    """Write the answer as JSON: counts are of pages, each once per process."""
    document = {
        "version": VERSION,
        "page_size": PAGE_SIZE,
        "seconds": round(seen.seconds, 3),
        "epochs": seen.epochs,
        "processes": [{"pid": pid, "name": name} for pid, name in seen.processes],
        "complete": why.complete and not seen.missing,
        "all_writers": why.all_writers,
        "copied_pages": why.copied,
        "unshared_pages": why.unshared,
        "unexplained_pages": why.unexplained,
        "lost_events": why.lost,
        "missing": list(seen.missing),
        "notes": list(seen.notes),
        "what_if": [
            {
                "cause": supposition.pattern,
                "saved_pages": supposition.saved,
                "left_pages": supposition.left,
            }
            for supposition in seen.suppositions
        ],
        "causes": [
            {
                "cause": why.classes[cause.function].id,
                "title": why.classes[cause.function].title,
                "remedy": why.classes[cause.function].remedy or None,
                **_numbers(cause),
            }
            for cause in why.by_class
        ],
        "functions": [
            {"cause": why.classes[why.class_of[cause.function]].id, **_named(why, cause)}
            for cause in why.by_function
        ],
        "scripts": [_named(why, cause) for cause in why.by_script],
        "memory": [
            {
                "name": area.area.name,
                "copied_pages": area.pages,
                "file_pages": area.file_pages or None,
                "processes": area.processes,
            }
            for area in why.by_area
        ],
    }
    json.dump(document, stream, indent=1)
    stream.write("\n")


def words(why: Why, seen: Observation) -> list[str]:
    """The answer in words, a line each."""
    names = sorted({name for _, name in seen.processes})
    where = "on the model" if seen.model else f"{seen.seconds:.1f} s"
    lines = [
        f"{count(len(seen.processes), 'process', 'processes')} "
        f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}), {where}",
        f"{count(why.copied, 'page')} ({size(why.copied)}) were copied on write"
        + ("" if seen.model else f"; {_unshared(why)}"),
        f"complete: {_completeness(why, seen)}",
    ]
    if not why.all_writers and why.copied:
        lines.append(
            "Only the first writer of each page is known: a saving is an upper bound, since "
            "others may have written later" + ("" if seen.model else " (--epoch finds them)")
        )
    bound = "" if why.all_writers else "at most "
    lines += (
        f"without {supposition.pattern}: {bound}{count(supposition.saved, 'page')} "
        f"({size(supposition.saved)}) more would be shared, and {supposition.left:,} copied "
        "all the same"
        for supposition in seen.suppositions
    )
    return [*lines, *(f"not seen: {line}" for line in seen.missing), *seen.notes]


def _unshared(why: Why) -> str:
    return (
        f"{count(why.unshared, 'page')} ({size(why.unshared)}) are not shared any more with the "
        "parent or the file"
    )


def _completeness(why: Why, seen: Observation) -> str:
    if seen.model:
        return "yes, the model's kernel reports every copy"
    if why.complete and seen.missing:
        return "only for what could be seen, where a write explains every page"
    if why.complete:
        return "yes, a recorded write explains every one of them"
    return (
        f"no, {count(why.unexplained, 'page')} without a recorded write, "
        f"{count(why.lost, 'event')} lost"
    )


def remedies(why: Why) -> list[str]:
    """What would help, largest saving first; begins with an empty line if anything does."""
    found = []
    for cause in why.by_class:
        cause_class = why.classes[cause.function]
        if cause_class.remedy and cause.saved:
            bound = "" if why.all_writers else "at most "
            found.append(
                f"{cause_class.title}: {bound}{size(cause.saved)} less with: {cause_class.remedy}"
            )
    return ["", *found[:3]] if found else []


def _columns(why: Why, title: str) -> list[Column]:
    return [
        Column("SAVES" if why.all_writers else "SAVES AT MOST"),
        Column("PAGES"),
        Column("WROTE TO", 2),
        Column("WROTE FIRST", 3),
        Column("PROCESSES", 4),
        Column(title, cut=Cut.END),
    ]


def _row(cause: Cause, name: str) -> list[str]:
    numbers = (cause.saved, cause.touched, cause.copied, cause.processes)
    return [size(cause.saved), *(f"{number:,}" for number in numbers), name]


def _named(why: Why, cause: Cause) -> dict[str, str | int | None]:
    function = why.functions[cause.function]
    return {"function": function.name or None, "file": function.file or None, **_numbers(cause)}


def _numbers(cause: Cause) -> dict[str, int]:
    return {
        "saved_pages": cause.saved,
        "written_pages": cause.touched,
        "first_written_pages": cause.copied,
        "processes": cause.processes,
    }


def _file(why: Why, cause: Cause) -> str:
    return why.functions[cause.function].file.rpartition("/")[2] or "no file"
