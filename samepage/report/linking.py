"""What the linker did, as one document for JSON, and as text for people.

The document is complete; the text shows the objects, the order of constructors and the
relocations, and what else is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from samepage.elf.machines import Kind
from samepage.elf.relocated_pages import count_kinds, relocated_pages, text_relocations
from samepage.linker.interposition import interpositions
from samepage.linker.link import Linker, LinkResult
from samepage.linker.maps import LinkMap
from samepage.linker.relocate import relro_range
from samepage.records import record
from samepage.report.sizes import count, printable
from samepage.report.symbols import readable

if TYPE_CHECKING:
    from samepage.verify.linking import Comparison


@record(frozen=True)
class Details:
    """Which details the text shows."""

    trail: bool = False
    bindings: bool = False
    pages: bool = False


def link_document(
    linker: Linker, result: LinkResult, *, with_bindings: bool = True
) -> dict[str, Any]:
    """Everything about a linked program, as it goes into JSON. Addresses are numbers.

    Without `with_bindings` the list of them is empty: to explain each takes as long as to link.
    """
    assert linker.binder is not None
    return {
        "program": result.maps[0].name,
        "errors": result.errors,
        "warnings": result.warnings,
        "undefined_later": [
            {"needed_by": link.name, "symbol": name} for link, name in result.undefined_later
        ],
        "objects": [_object(link, linker, result) for link in result.maps],
        "search_order": [link.name for link in result.search_list],
        "constructor_order": [link.name for link in result.init_order],
        "static_tls": {
            "modules": result.tls.modules,
            "used": result.tls.used,
            "size": result.tls.size,
            "align": result.tls.align,
        },
        "search_trail": [
            {
                "name": attempt.name,
                "path": attempt.path,
                "source": attempt.source,
                "outcome": attempt.outcome,
            }
            for attempt in result.trail
        ],
        "passed_over": [
            {
                "name": attempt.name,
                "path": attempt.path or None,
                "source": attempt.source,
                "outcome": attempt.outcome,
            }
            for attempt in result.passed_over
        ],
        "interpositions": [
            {
                "object": item.user.name,
                "bound_to": item.definer.name,
                "symbols": item.symbols,
            }
            for item in (interpositions(result.bindings) if result.bindings else ())
        ],
        "bindings": [
            {
                "symbol": binding.symbol,
                "version": binding.version,
                "needed_by": binding.user.name,
                "provided_by": binding.definer.name if binding.definer else None,
                "class": binding.relocation.name or "DATA",
                "protected": binding.kind == "protected",
                "weak": binding.weak,
                "why": binding.reason,
                "interposes": [other.name for other in binding.interposed],
            }
            for link, references in result.references.items()
            if with_bindings
            for binding in linker.binder.explain(link, references)
        ],
    }


def _object(link: LinkMap, linker: Linker, result: LinkResult) -> dict[str, Any]:
    kinds = count_kinds(link.object)
    found = [attempt for attempt in result.trail if attempt.path == link.name]
    relro = relro_range(link)
    text = text_relocations(link.object) if link.object.dynamic.textrel else np.empty(0, np.uint64)
    return {
        "path": link.name,
        "soname": link.object.soname,
        "needed_by": link.loader.name if link.loader else None,
        "found_by": found[-1].source if found else "execve",
        "needs": [dependency.name for dependency in link.needed],
        "base": link.base,
        "end": link.end,
        "relro": list(relro) if relro else None,
        "lazy": linker.is_lazy(link),
        "tls_module": link.tls_module or None,
        "tls_offset": link.tls_offset or None,
        "text_relocations": len(text),
        "text_pages": len({place >> 12 for place in text.tolist()}),
        "relocations": {kind.name: number for kind, number in kinds.items()},
        "relocated_pages": [
            {
                "address": page.address,
                "relocations": {kind.name: number for kind, number in page.counts.items()},
            }
            for page in relocated_pages(link.object)
        ],
    }


_COLUMNS = (
    ("relative", (Kind.RELATIVE,)),
    ("pointer", (Kind.ABSOLUTE,)),
    ("GOT", (Kind.GLOB_DAT,)),
    ("PLT", (Kind.JUMP_SLOT,)),
    ("copy", (Kind.COPY,)),
    ("IFUNC", (Kind.IRELATIVE,)),
    ("TLS", (Kind.DTPMOD, Kind.DTPOFF, Kind.TPOFF, Kind.TLSDESC)),
)


def link_text(document: dict[str, Any], details: Details) -> Iterator[str]:
    """The document as lines of text."""
    objects = document["objects"]
    yield f"{document['program']}: {count(len(objects), 'object')}"
    for message in dict.fromkeys((*document["errors"], *document["warnings"])):
        yield f"  {printable(message)}"
    for item in document["undefined_later"]:
        yield (
            f"  {printable(item['needed_by'])}: undefined when it is called first: "
            f"{printable(item['symbol'])}"
        )
    yield ""
    yield f"{'BASE':>14}  OBJECT, in load order"
    for item in objects:
        source = f"  ({item['found_by']})" if item["needed_by"] else ""
        yield f"{item['base']:14x}  {printable(item['path'])}{source}"
    yield ""
    heads = "".join(f"{name:>9}" for name, _ in _COLUMNS)
    yield f"{heads}{'PAGES':>7}  RELOCATIONS of"
    for item in objects:
        counts = item["relocations"]
        cells = "".join(
            f"{sum(counts.get(kind.name, 0) for kind in kinds) or '':>9}" for _, kinds in _COLUMNS
        )
        yield f"{cells}{len(item['relocated_pages']) or '':>7}  {printable(item['path'])}"
    for item in objects:
        if item["text_relocations"]:
            yield (
                f"  text relocations: {printable(item['path'])}: "
                f"{count(item['text_relocations'], 'word')} on "
                f"{count(item['text_pages'], 'page')} of code that cannot be shared "
                "(compile with -fPIC)"
            )
    yield ""
    yield "constructors: " + " ".join(
        printable(path.rpartition("/")[2]) for path in document["constructor_order"]
    )
    yield from _interpositions(document)
    if details.trail:
        yield from _trail(document)
    if details.pages:
        yield from _pages(objects)
    if details.bindings:
        yield from _bindings(document)


_SYMBOLS_SHOWN = 4
"""Names of interposed symbols in one line."""


def _interpositions(document: dict[str, Any]) -> Iterator[str]:
    """The symbols that an object has, and that are bound to another one's nevertheless."""
    for item in document["interpositions"]:
        symbols = item["symbols"]
        names = ", ".join(map(readable, symbols[:_SYMBOLS_SHOWN]))
        more = ", ..." if len(symbols) > _SYMBOLS_SHOWN else ""
        yield (
            f"interposed: {printable(item['object'])}: {count(len(symbols), 'symbol')} of its own "
            f"bound to {printable(item['bound_to'])}: {names}{more}"
        )


def _trail(document: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "SEARCH"
    name = None
    passed_over = document["passed_over"]
    for attempt in document["search_trail"]:
        if attempt["name"] != name:
            name = attempt["name"]
            yield printable(name)
            for rule in passed_over:
                if rule["name"] == name:
                    at = f"{printable(rule['path'])}  " if rule["path"] else ""
                    yield f"  {at}({printable(rule['source'])}): {printable(rule['outcome'])}"
        yield (
            f"  {printable(attempt['path'])}  ({printable(attempt['source'])}): "
            f"{attempt['outcome']}"
        )


def _pages(objects: list[dict[str, Any]]) -> Iterator[str]:
    for item in objects:
        if not item["relocated_pages"]:
            continue
        yield ""
        yield f"PAGES that relocation writes, {printable(item['path'])}"
        for page in item["relocated_pages"]:
            kinds = ", ".join(f"{number} {kind}" for kind, number in page["relocations"].items())
            yield f"{page['address']:14x}  {kinds}"


def _bindings(document: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "BINDINGS"
    for binding in document["bindings"]:
        version = f"@{printable(binding['version'])}" if binding["version"] else ""
        yield (
            f"{printable(binding['needed_by'])}: {readable(binding['symbol'])}{version} -> "
            f"{printable(binding['provided_by'] or 'nothing')} ({binding['why']})"
        )


def comparison_text(comparison: Comparison) -> Iterator[str]:
    """The comparison with ld.so as lines of text."""
    mode = "LD_BIND_NOW=1" if comparison.bind_now else "lazy binding"
    verdict = "agrees with ld.so" if comparison.agrees else "DIFFERS from ld.so"
    if comparison.agrees and comparison.theirs:
        verdict = "is refused by both, for the same reason"
    yield f"{comparison.path}, {mode}: {verdict}"
    if comparison.theirs or comparison.ours:
        yield f"  ld.so: {printable(comparison.theirs or 'starts the program')}"
        yield f"  samepage: {printable(comparison.ours or 'links the program')}"
        return
    bindings = f", {count(comparison.bindings, 'binding')}" if comparison.bind_now else ""
    yield (
        f"  {count(comparison.objects, 'object')}{bindings}, "
        f"{count(comparison.bytes_compared, 'byte')} of writable pages compared"
    )
    for rule, words in comparison.by_rule.items():
        yield f"  {count(words, 'word')} by rule: {rule.value}"
    for line in comparison.order_differences + comparison.binding_differences:
        yield f"  {printable(line)}"
    for word in comparison.unexplained:
        yield (
            f"  {printable(word.object)} at {word.offset:#x}: ld.so has {word.theirs:#x}, "
            f"samepage has {word.ours:#x}"
        )


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as it goes into JSON."""
    return {
        "bind_now": comparison.bind_now,
        "agrees": comparison.agrees,
        "ldso_ends": comparison.theirs or None,
        "samepage_ends": comparison.ours or None,
        "objects": comparison.objects,
        "bindings": comparison.bindings,
        "bytes": comparison.bytes_compared,
        "words_by_rule": {rule.name: words for rule, words in comparison.by_rule.items()},
        "differences": comparison.order_differences + comparison.binding_differences,
        "unexplained": [
            {
                "object": word.object,
                "address": word.address,
                "offset": word.offset,
                "ldso": word.theirs,
                "samepage": word.ours,
            }
            for word in comparison.unexplained
        ],
    }
