"""What libraries cost, as a document for JSON and as text for people."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from samepage.analysis.cost import Cause, Cost, PageCost, PageState
from samepage.elf.machines import MACHINES
from samepage.report.sizes import count, printable
from samepage.report.symbols import readable

_MARKS = {
    PageState.SHARED: ".",
    PageState.UNTIL_WRITTEN: "w",
    PageState.COPIED: "C",
    PageState.ANONYMOUS: "z",
}


def cost_document(cost: Cost) -> dict[str, Any]:
    """Everything about one library's cost, as it goes into JSON."""
    return {
        "path": cost.path,
        "machine": MACHINES[cost.machine].name,
        "page_size": cost.page_size,
        "pages": {state.name.lower(): cost.count(state) for state in PageState},
        "relro_pages": cost.relro,
        "problems": cost.problems,
        "tls_bytes": cost.tls_bytes,
        "static_tls": cost.static_tls,
        "relocations": {kind.name: number for kind, number in cost.relocations.items()},
        "page_map": [_page(page) for page in cost.pages],
        "savings": [
            {
                "change": saving.change,
                "pages": saving.pages,
                "file_bytes": saving.file_bytes,
                "note": saving.note,
            }
            for saving in cost.savings
        ],
    }


def _page(page: PageCost) -> dict[str, Any]:
    return {
        "address": page.address,
        "pages": page.count,
        "state": page.state.value,
        "executable": page.executable,
        "relro": page.relro,
        "sections": list(page.sections),
        "causes": [
            {
                "kind": cause.kind.name,
                "symbol": cause.symbol,
                "holder": cause.holder or None,
                "count": cause.count,
            }
            for cause in page.causes
        ],
        "other_stores": list(page.other_stores),
    }


def cost_text(cost: Cost, *, page_map: bool, top: int) -> Iterator[str]:
    """One library's cost as lines of text; `top` bounds the causes (0: all)."""
    yield f"{printable(cost.path)} ({MACHINES[cost.machine].name})"
    yield (f"  each process pays {count(cost.copied, 'page')} at load, {cost.relro} of them RELRO")
    yield (
        f"  and up to {count(cost.count(PageState.UNTIL_WRITTEN), 'page')} of data that it "
        f"writes, {count(cost.count(PageState.ANONYMOUS), 'page')} of .bss"
    )
    yield f"  shared for good: {count(cost.count(PageState.SHARED), 'page')}"
    kinds = ", ".join(f"{number} {kind.name}" for kind, number in cost.relocations.items())
    yield f"  relocations: {kinds or 'none'}"
    if cost.tls_bytes:
        where = ", in the static block, of whose surplus dlopen takes them" * cost.static_tls
        yield f"  thread-local: {count(cost.tls_bytes, 'byte')} of each thread{where}"
    for problem in cost.problems:
        yield f"  {printable(problem)}"
    yield from _causes(cost, top)
    if cost.savings:
        yield "  what would lower it:"
    for saving in cost.savings:
        pages = f"{count(saving.pages, 'page')}" if saving.pages > 0 else ""
        size = f"{saving.file_bytes:,} bytes of file" if saving.file_bytes else ""
        saved = ", ".join(filter(None, (pages, size))) or "no page"
        effect = f"saves {saved}"
        if saving.pages < 0:
            effect = f"costs {count(-saving.pages, 'page')} more"
        yield f"    {saving.change}: {effect} ({saving.note})"
    if page_map:
        yield from _map(cost)


def _causes(cost: Cost, top: int) -> Iterator[str]:
    """The symbols that make the most pages private, with their numbers of pages."""
    on: dict[tuple[str, str, str], set[int]] = {}
    words: Counter[tuple[str, str, str]] = Counter()
    for page in cost.pages:
        for cause in page.causes:
            symbol = "optional hooks (_ITM_*, __gmon_start__)" if _is_hook(cause) else cause.symbol
            key = (cause.kind.name, symbol, cause.holder)
            on.setdefault(key, set()).add(page.address)
            words[key] += cause.count
    pages = {key: len(addresses) for key, addresses in on.items()}
    ordered = sorted(pages, key=lambda key: (-pages[key], -words[key], key))
    shown = ordered[: top or None]
    if shown:
        yield "  what causes it (pages it is on, words):"
    for key in shown:
        kind, symbol, holder = key
        inside = f" in {readable(holder)}" if holder and holder not in (".got", ".got.plt") else ""
        yield f"    {pages[key]:5} {words[key]:7}  {kind} {readable(symbol)}{inside}"
    if len(ordered) > len(shown):
        yield f"    and {count(len(ordered) - len(shown), 'more symbol')} (--top 0 shows all)"


def _is_hook(cause: Cause) -> bool:
    """Whether it is one of the weak references that the compiler's start-up files bring along."""
    return cause.symbol.startswith("_ITM_") or cause.symbol == "__gmon_start__"


def _map(cost: Cost) -> Iterator[str]:
    """Runs of pages with the same sections and state, one line each."""
    yield "  map: . shared, w shared until written, C copied at load, z zero until written"
    runs = groupby(cost.pages, key=lambda page: (page.state, page.sections))
    for (state, sections), group in runs:
        run = list(group)
        end = run[-1].address + run[-1].count * cost.page_size
        pages = sum(page.count for page in run)
        yield (
            f"    {run[0].address:10x}-{end:<10x} {_MARKS[state]} {pages:6}  "
            f"{' '.join(map(printable, sections))}"
        )
