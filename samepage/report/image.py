"""What container images have in them and share: as text, as Markdown, and as JSON.

The JSON document has `images[]`, each with `layers[]`, `links` (null if they were not checked),
`copied_up[]` and `container` (null if its cost was not asked for); `sharing` of several images,
else null; and `diff[]` of two versions, else null. `image.schema.json` describes it. Sizes of
files are in bytes, costs of containers and of changes in pages of 4096 bytes.
"""

from __future__ import annotations

import importlib.resources
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from samepage.analysis.image_cost import ContainerCost
from samepage.analysis.image_diff import Change, Version
from samepage.analysis.image_links import Finding, Kind, Links
from samepage.analysis.image_sharing import CopiedUp, ImageSharing, LostFile
from samepage.images.image import Image
from samepage.report.sizes import count, printable, size
from samepage.report.tables import FILE_WIDTH, Column, Cut, Terminal

_PAGE = 4096


@dataclass(slots=True)
class ImageAnswer:
    """All that was found out about one image."""

    image: Image
    links: Links | None = None
    copied: list[CopiedUp] = field(default_factory=list)
    cost: ContainerCost | None = None


@dataclass(slots=True)
class Answers:
    """What a command found out about its images."""

    images: list[ImageAnswer]
    sharing: ImageSharing | None = None
    changes: list[Change] | None = None


def schema() -> Any:
    """Return the JSON schema (draft 2020-12) that every document obeys."""
    file = importlib.resources.files("samepage.report") / "image.schema.json"
    return json.loads(file.read_text(encoding="utf-8"))


def write_json(answers: Answers, stream: TextIO) -> None:
    """Write one JSON document."""
    json.dump(document(answers), stream, indent=1, ensure_ascii=False)
    stream.write("\n")


def document(answers: Answers) -> dict[str, Any]:
    """Return the answers as plain dictionaries and lists."""
    names = [answer.image.name for answer in answers.images]
    sharing = answers.sharing
    return {
        "images": [_image(answer) for answer in answers.images],
        "sharing": None if sharing is None else _sharing(sharing, names, answers.images),
        "diff": None if answers.changes is None else [_change(c) for c in answers.changes],
    }


def _image(answer: ImageAnswer) -> dict[str, Any]:
    image, cost = answer.image, answer.cost
    return {
        "name": image.name,
        "architecture": image.config.architecture or None,
        "arguments": list(image.config.process.arguments),
        "layers": [
            {"chain_id": l.chain_id, "created_by": l.created_by, "bytes": l.size}
            for l in image.layers  # noqa: E741
        ],
        "links": None if answer.links is None else _links(answer.links),
        "copied_up": [
            {"path": c.path, "bytes": c.size, "layer": c.layer, "below": c.below}
            for c in answer.copied
        ],
        "container": None
        if cost is None
        else {
            "arguments": list(cost.arguments),
            "private_pages": cost.private,
            "shared_pages": cost.shared if cost.ran else None,
            "ran": cost.ran,
            "note": cost.reason,
        },
    }


def _links(links: Links) -> dict[str, Any]:
    return {
        "programs": len(links.programs),
        "static": len(links.static),
        "libraries": links.libraries,
        "not_checked": {str(machine): paths for machine, paths in links.not_checked.items()},
        "findings": [
            {
                "kind": finding.kind.value,
                "user": finding.user,
                "what": finding.what,
                "detail": finding.detail,
                "programs": programs,
            }
            for finding, programs in links.findings.items()
        ],
    }


def _sharing(sharing: ImageSharing, names: list[str], images: list[ImageAnswer]) -> dict[str, Any]:
    return {
        "total_bytes": sharing.total,
        "shared_bytes": sharing.shared,
        "lost_bytes": sharing.lost_bytes,
        "layers": [
            {
                "chain_id": layer.chain_id,
                "created_by": layer.created_by,
                "bytes": layer.size,
                "images": [names[number] for number in layer.images],
            }
            for layer in sharing.layers
        ],
        "lost": [
            {
                "bytes": item.size,
                "lost_bytes": item.lost,
                "elf": item.elf,
                "cause": item.cause,
                "places": [
                    {
                        "image": names[place.image],
                        "layer": place.layer,
                        "created_by": images[place.image].image.layers[place.layer].created_by,
                        "path": place.path,
                    }
                    for place in item.places
                ],
            }
            for item in sharing.lost
        ],
    }


def _change(change: Change) -> dict[str, Any]:
    def version(item: Version | None) -> dict[str, Any] | None:
        if item is None:
            return None
        return {
            "path": item.path,
            "bytes": item.size,
            "mapped_pages": item.mapped,
            "copied_pages": item.copied,
        }

    return {
        "name": change.name,
        "old": version(change.old),
        "new": version(change.new),
        "same_bytes": change.same_bytes,
        "unshared_pages": change.unshared,
    }


def write_text(answers: Answers, stream: TextIO, *, top: int | None) -> None:
    """Write it for people; `top` bounds the rows of each table."""
    terminal = Terminal(stream, None if stream.isatty() else FILE_WIDTH)
    for answer in answers.images:
        for line in _summary(answer):
            terminal.print(line)
        for title, columns, rows in _image_tables(answer):
            _table(terminal, title, columns, rows, top)
        terminal.print()
    for line in _sharing_words(answers):
        terminal.print(line)
    for title, columns, rows in _common_tables(answers):
        _table(terminal, title, columns, rows, top)


def write_markdown(answers: Answers, stream: TextIO, *, top: int | None) -> None:
    """Write it for a pull request: the same lines and tables as Markdown."""
    for answer in answers.images:
        stream.write(f"### {_escaped(printable(answer.image.name))}\n\n")
        for line in _summary(answer)[1:]:
            stream.write(f"{_escaped(line.strip())}\n\n")
        for title, columns, rows in _image_tables(answer):
            _markdown_table(stream, title, columns, rows, top)
    for line in _sharing_words(answers):
        stream.write(f"{_escaped(line)}\n\n")
    for title, columns, rows in _common_tables(answers):
        _markdown_table(stream, title, columns, rows, top)


_Table = tuple[str, list[Column], list[list[str]]]


def _table(
    terminal: Terminal,
    title: str,
    columns: list[Column],
    rows: list[list[str]],
    top: int | None,
) -> None:
    if rows:
        terminal.print_table(columns, rows[:top], title)
        if top is not None and len(rows) > top:
            terminal.print(f"... and {len(rows) - top:,} more (--top 0 shows all)", "note")


def _markdown_table(
    stream: TextIO, title: str, columns: list[Column], rows: list[list[str]], top: int | None
) -> None:
    if not rows:
        return
    stream.write(f"**{_escaped(title)}**\n\n")
    stream.write("| " + " | ".join(column.title for column in columns) + " |\n")
    stream.write("|" + "|".join("---" if c.cut else "--:" for c in columns) + "|\n")
    for row in rows[:top]:
        stream.write("| " + " | ".join(_escaped(cell) for cell in row) + " |\n")
    if top is not None and len(rows) > top:
        stream.write(f"\n... and {len(rows) - top:,} more\n")
    stream.write("\n")


def _escaped(words: str) -> str:
    """What a name may have that Markdown or HTML would take for its own."""
    for character in "\\`*_|<>[]":
        words = words.replace(character, "\\" + character)
    return words.replace("\n", " ")


def _bytes(number: int) -> str:
    return size(number / _PAGE)


def _summary(answer: ImageAnswer) -> list[str]:
    image, links = answer.image, answer.links
    files = sum(1 for _ in image.tree.files())
    total = sum(layer.size for layer in image.layers)
    lines = [
        f"{printable(image.name)}: {count(len(image.layers), 'layer')}, {count(files, 'file')}, "
        f"{_bytes(total)}"
        + (f", for {printable(image.config.architecture)}" if image.config.architecture else "")
    ]
    if links is not None:
        lines.append("  " + _links_line(links))
    if answer.copied:
        wasted = sum(item.size for item in answer.copied)
        lines.append(
            f"  {_bytes(wasted)} are copied up without a change of the bytes: a step that changes "
            "only owners or modes holds the files again, as other files to the page cache."
        )
    if answer.cost is not None:
        lines.append("  " + _cost_line(answer.cost))
    return lines


def _links_line(links: Links) -> str:
    libraries = count(links.libraries, "library", "libraries")
    checked = f"{count(len(links.programs), 'program')} and {libraries}"
    broken = {path for paths in links.findings.values() for path in paths}
    line = f"{checked} linked: " + (
        f"{count(len(broken), 'file')} with findings." if broken else "all that they need is there."
    )
    if links.static:
        line += f" {count(len(links.static), 'program')} linked statically."
    for machine, paths in links.not_checked.items():
        line += f" {count(len(paths), 'program')} for machine {machine}: not checked."
    return line


def _cost_line(cost: ContainerCost) -> str:
    words = printable(" ".join(cost.arguments))
    if cost.ran:
        return (
            f"A container of it ({words}) has {size(cost.private)} alone and maps "
            f"{size(cost.shared)} of files, which all its containers share. {cost.reason}"
        )
    return (
        f"A container of it ({words}) was not run ({cost.reason}); loading its program copies "
        f"{size(cost.private)}, without heap and stack."
    )


def _image_tables(answer: ImageAnswer) -> Iterator[_Table]:
    links = answer.links
    if links is not None:
        columns = [
            Column("FINDING"),
            Column("PROGRAMS", 1),
            Column("NEEDED BY  WHAT", cut=Cut.FOLD),
        ]
        yield "What will not be found", columns, list(_finding_rows(links))
    if answer.copied:
        columns = [Column("SIZE"), Column("LAYER"), Column("OF", 1), Column("PATH", cut=Cut.PATH)]
        rows = [
            [_bytes(c.size), str(c.layer + 1), str(c.below + 1), printable(c.path)]
            for c in answer.copied
        ]
        yield "Copied up without a change", columns, rows


_SYMBOLS = (Kind.MISSING_SYMBOL, Kind.MISSING_LATER)


def _finding_rows(links: Links) -> Iterator[list[str]]:
    """One row per finding; symbols that one object lacks are one row."""
    symbols: dict[tuple[Kind, str], list[tuple[Finding, list[str]]]] = defaultdict(list)
    lacking = {f.user for f in links.findings if f.kind is Kind.MISSING_LIBRARY}
    order = sorted(links.findings, key=lambda f: (list(Kind).index(f.kind), f.user, f.what))
    for finding in order:
        programs = links.findings[finding]
        if finding.kind in _SYMBOLS:
            symbols[finding.kind, finding.user].append((finding, programs))
            continue
        words = f"{printable(finding.user)}  {printable(finding.what)}"
        if finding.detail:
            words += f" ({printable(finding.detail)})"
        yield [finding.kind.value, f"{len(programs):,}", words]
    for (kind, user), found in symbols.items():
        names = ", ".join(printable(finding.what) for finding, _ in found[:4])
        more = f" and {len(found) - 4:,} more" if len(found) > 4 else ""
        why = " (they may be in the missing library)" if user in lacking else ""
        users = {program for _, programs in found for program in programs}
        yield [kind.value, f"{len(users):,}", f"{printable(user)}  {names}{more}{why}"]


def _sharing_words(answers: Answers) -> list[str]:
    sharing = answers.sharing
    if sharing is None:
        return []
    common = [layer for layer in sharing.layers if len(layer.images) > 1]
    lost_elf = sum(item.lost for item in sharing.lost if item.elf)
    return [
        f"On one host containers of these images share {_bytes(sharing.shared)} of "
        f"{_bytes(sharing.total)} of files, by {count(len(common), 'common layer')}.",
        f"{_bytes(sharing.lost_bytes)} more have the same bytes in other files "
        f"({_bytes(lost_elf)} programs and libraries): the page cache holds them once for each. "
        "composefs, which keeps files by content, or EROFS with a shared page cache would hold "
        "them once.",
    ]


def _common_tables(answers: Answers) -> Iterator[_Table]:
    sharing = answers.sharing
    names = [printable(answer.image.name) for answer in answers.images]
    if sharing is not None:
        columns = [
            Column("SIZE"),
            Column("IMAGES"),
            Column("LAYER  MADE BY", cut=Cut.END),
        ]
        rows = [
            [
                _bytes(layer.size),
                str(len(layer.images)),
                f"{_short(layer.chain_id)}  {printable(layer.created_by)}",
            ]
            for layer in sorted(sharing.layers, key=lambda item: -item.size)
        ]
        yield "Layers", columns, rows
        columns = [
            Column("LOST"),
            Column("COPIES"),
            Column("FILE, CAUSE, WHERE", cut=Cut.FOLD),
        ]
        rows = [_lost_row(item, names, answers) for item in sharing.lost]
        yield "The same bytes in several files", columns, rows
    if answers.changes is not None:
        columns = [
            Column("UN-SHARED"),
            Column("COPIED BEFORE", 1),
            Column("AFTER", 1),
            Column("CHANGE"),
            Column("FILE", cut=Cut.PATH),
        ]
        rows = [_change_row(change) for change in answers.changes]
        yield "What an upgrade changes", columns, rows


def _short(chain_id: str) -> str:
    return chain_id.removeprefix("sha256:")[:12] if chain_id.startswith("sha256:") else chain_id


def _lost_row(item: LostFile, names: Sequence[str], answers: Answers) -> list[str]:
    first = item.places[0].path
    where = []
    for place in item.places[:4]:
        layer = answers.images[place.image].image.layers[place.layer]
        step = f" ({printable(layer.created_by[:60])})" if layer.created_by else ""
        path = "" if place.path == first else f" {printable(place.path)}"
        where.append(f"{names[place.image]} layer {place.layer + 1}{step}{path}")
    if len(item.places) > 4:
        where.append(f"{len(item.places) - 4:,} more")
    words = f"{printable(first)}: {item.cause}: {'; '.join(where)}"
    return [_bytes(item.lost), str(len(item.places)), words]


def _change_row(change: Change) -> list[str]:
    if change.old is None:
        kind = "new"
    elif change.new is None:
        kind = "gone"
    else:
        kind = "moved" if change.same_bytes else "changed"
    path = change.new.path if change.new else change.name
    if change.old and change.new and change.old.path != change.new.path:
        path = f"{change.old.path} -> {change.new.path}"
    return [
        size(change.unshared),
        size(change.old.copied) if change.old else "",
        size(change.new.copied) if change.new else "",
        kind,
        printable(path),
    ]
