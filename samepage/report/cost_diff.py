"""Two builds of libraries compared: text, Markdown for a pull request, and JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from samepage.analysis.cost import Cost, PageState
from samepage.analysis.cost_diff import CauseChange, CostChange
from samepage.report.cost import cost_document
from samepage.report.sizes import count, printable
from samepage.report.symbols import readable

_COLUMNS = ("copied at load", "shared until written", ".bss", "relocations", "TLS bytes")


def diff_document(changes: Sequence[CostChange]) -> list[dict[str, Any]]:
    """The comparison as it goes into JSON; `before` and `after` as `cost` has them."""
    return [
        {
            "library": change.name,
            "grown": change.grown,
            "before": cost_document(change.before) if change.before else None,
            "after": cost_document(change.after) if change.after else None,
            "changed_causes": [
                {
                    "kind": cause.kind.name,
                    "symbol": cause.symbol,
                    "holder": cause.holder or None,
                    "before": cause.before,
                    "after": cause.after,
                }
                for cause in change.causes
            ],
        }
        for change in changes
    ]


def diff_text(changes: Sequence[CostChange], top: int) -> Iterator[str]:
    """A table, and below it what changed; `top` bounds the causes of each library (0: all)."""
    yield _summary(changes)
    rows = [("library", *_COLUMNS), *(_row(change) for change in changes if _differs(change))]
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        numbers = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join([f"{row[0]:<{widths[0]}}", *numbers]).rstrip()
    for change in changes:
        for line in _details(change, top):
            yield f"  {line}"


def diff_markdown(changes: Sequence[CostChange], top: int) -> Iterator[str]:
    """The same for a pull request."""
    yield f"**{_summary(changes)}**"
    rows = [_row(change) for change in changes if _differs(change)]
    if rows:
        yield ""
        yield "| " + " | ".join(("library", *_COLUMNS)) + " |"
        yield "|---" + "|---:" * len(_COLUMNS) + "|"
        for name, *cells in rows:
            yield "| " + " | ".join((f"`{name}`", *cells)).replace("->", "→") + " |"
    details = [line for change in changes for line in _details(change, top)]
    if details:
        yield ""
        for line in details:
            yield f"- {line.replace('<', '&lt;').replace('|', chr(92) + '|')}"


def _summary(changes: Sequence[CostChange]) -> str:
    grown = sum(change.grown for change in changes)
    if grown:
        effect = f"{count(abs(grown), 'page')} {'more' if grown > 0 else 'less'}"
    else:
        effect = "as many pages"
    return f"Each process that loads them copies {effect} ({count(len(changes), 'library')})."


def _differs(change: CostChange) -> bool:
    return _numbers(change.before) != _numbers(change.after) or bool(change.causes)


def _numbers(cost: Cost | None) -> tuple[int, ...]:
    if cost is None:
        return (0,) * len(_COLUMNS)
    return (
        cost.copied,
        cost.count(PageState.UNTIL_WRITTEN),
        cost.count(PageState.ANONYMOUS),
        sum(cost.relocations.values()),
        cost.tls_bytes,
    )


def _row(change: CostChange) -> tuple[str, ...]:
    cells = []
    for old, new in zip(_numbers(change.before), _numbers(change.after), strict=True):
        cells.append(f"{old:,} -> {new:,} ({new - old:+,})" if old != new else f"{new:,}")
    state = " (new)" if change.before is None else " (gone)" if change.after is None else ""
    return (printable(change.name) + state, *cells)


def _details(change: CostChange, top: int) -> Iterator[str]:
    name = printable(change.name)
    old = change.before.problems if change.before else []
    new = change.after.problems if change.after else []
    for problem in new:
        if problem not in old:
            yield f"{name}: {printable(problem)}"
    for problem in old:
        if problem not in new and change.after is not None:
            yield f"{name}: no longer: {printable(problem)}"
    shown = change.causes[: top or None]
    for cause in shown:
        yield f"{name}: {_cause(cause)}"
    if len(change.causes) > len(shown):
        yield f"{name}: and {count(len(change.causes) - len(shown), 'more cause')} (--top 0)"


def _cause(cause: CauseChange) -> str:
    inside = f" in {readable(cause.holder)}" if cause.holder else ""
    words = f"{cause.before:,} -> {cause.after:,} words ({cause.after - cause.before:+,})"
    return f"{words} of {cause.kind.name} {readable(cause.symbol)}{inside}"
