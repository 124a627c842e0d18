"""What a file needs, as a tree: each object below the one that it was loaded for.

An object appears once, where it was loaded; a library that others need, too, is not repeated.
Behind its path are the rule that led there, its size, and the pages that loading it copies.
"""

from collections.abc import Iterator
from typing import Any

from samepage.analysis.cost_tables import copied_pages
from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap
from samepage.linker.unused import unused_libraries
from samepage.report.sizes import count, printable

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


def tree_document(result: LinkResult, *, with_pages: bool) -> dict[str, Any]:
    """The tree for JSON: each object with the objects that were loaded for it, and if asked
    for, the pages that loading each copies.
    """
    found = {attempt.path: attempt.source for attempt in result.trail}

    def node(link: LinkMap) -> dict[str, Any]:
        return {
            "path": link.name,
            "found_by": found.get(link.name),
            "bytes": link.object.elf.size,
            "copied_pages": copied_pages(link.object) if with_pages else None,
            "not_found": [name for user, name in result.missing if user is link],
            "loads": [node(other) for other in result.maps if _parent(other, result) is link],
        }

    return {
        "file": result.maps[0].name,
        "errors": result.errors,
        "warnings": result.warnings,
        "unused": [link.name for link in unused_libraries(result)],
        "undefined_later": [
            {"needed_by": link.name, "symbol": name} for link, name in result.undefined_later
        ],
        "tree": node(result.maps[0]),
    }


def _parent(link: LinkMap, result: LinkResult) -> LinkMap | None:
    """Whose line an object is below: its loader's; the interpreter's and a preload's is
    the program.
    """
    program = result.maps[0]
    return None if link is program else link.loader or program


def tree_text(document: dict[str, Any], *, color: bool) -> Iterator[str]:
    """The tree as lines; what was not found is red in `color`."""
    yield from _node(document["tree"], "", "", color)
    for message in dict.fromkeys((*document["errors"], *document["warnings"])):
        yield f"  {printable(message)}"
    yield from _later(document)


def _node(item: dict[str, Any], lead: str, below: str, color: bool) -> Iterator[str]:
    source = f" ({printable(item['found_by'])})" if item["found_by"] else ""
    size = f"{item['bytes']:,} bytes, {count(item['copied_pages'], 'page')} copied"
    yield f"{lead}{printable(item['path'])}{source}: {size}"
    children: list[Any] = [*item["loads"], *item["not_found"]]
    for number, child in enumerate(children):
        last = number == len(children) - 1
        branch, following = ("`-- ", "    ") if last else ("|-- ", "|   ")
        if isinstance(child, str):
            text = f"{printable(child)}: not found"
            yield below + branch + (f"{_RED}{text}{_PLAIN}" if color else text)
        else:
            yield from _node(child, below + branch, below + following, color)


def _later(document: dict[str, Any]) -> Iterator[str]:
    for item in document["undefined_later"]:
        yield (
            f"  {printable(item['needed_by'])}: undefined when it is called first: "
            f"{printable(item['symbol'])}"
        )


def missing_text(document: dict[str, Any]) -> Iterator[str]:
    """Only what will not be found: libraries, versions, symbols, also at their first call."""
    lines = [f"  {printable(message)}" for message in dict.fromkeys(document["errors"])]
    lines += _later(document)
    if lines:
        yield f"{printable(document['file'])}:"
        yield from lines


def unused_text(document: dict[str, Any]) -> Iterator[str]:
    """Only the libraries that the file needs for nothing."""
    if document["unused"]:
        yield f"{printable(document['file'])}: needs for nothing:"
        for path in document["unused"]:
            yield f"  {printable(path)}"
