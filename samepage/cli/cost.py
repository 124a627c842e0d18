"""`samepage cost`: what each process that loads a library pays for it, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from samepage.cli.arguments import Parser, add_output, add_top, number
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.report.forms import COST, JSON, MARKDOWN, Form, choose, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.analysis.cost import Cost


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add(
        "libraries",
        nargs="+",
        metavar="LIBRARY",
        help="Shared libraries, or programs; wheels, and directories with all below them: then "
        "what copies most pages comes first.",
    )
    add("--map", action="store_true", dest="page_map", help="Show every page: state and sections.")
    add(
        "--diff",
        action="store_true",
        help="Compare two, OLD and NEW: libraries, wheels or directories. -f markdown is for a "
        "pull request; --budget is for NEW.",
    )
    add_output(parser, COST)
    add(
        "--budget",
        type=number(int, 0),
        metavar="PAGES",
        help="Exit with status 1 if a library copies more pages at load.",
    )
    add(
        "--page-size",
        type=int,
        choices=(4096, 16384, 65536),
        default=4096,
        help="Bytes of a page on the machine that runs the library (default: %(default)s).",
    )
    add_top(parser, 10)


def command(
    libraries: list[str],
    page_map: bool,
    diff: bool,
    output: str | None,
    form: str | None,
    budget: int | None,
    page_size: int,
    top: int,
) -> int:
    """Show what each process pays that loads LIBRARY: pages copied at load, and what causes
    them, pages that a write would copy, and what would lower the cost.

    The files are read, not loaded: x86-64, aarch64, riscv64 and i386 on any machine.
    """
    chosen = choose(output, form, COST)
    if diff and len(libraries) != 2:
        raise SamepageError("--diff compares two: OLD and NEW")
    if chosen is MARKDOWN and not diff:
        raise SamepageError("-f markdown is for --diff")
    use_one_thread()
    if diff:
        old, new = (_costs([side], page_size)[0] for side in libraries)
        if not old or not new:
            return 2
        _write_diff(old, new, chosen, output, top)
        return _over_budget(new, budget)
    costs, status = _costs(libraries, page_size)
    from samepage.report.cost import cost_document, cost_text

    if len(costs) > len(libraries):
        costs.sort(key=lambda cost: (-cost.copied, cost.path))
    with writing(output, chosen) as stream:
        if chosen is JSON:
            stream.write(json.dumps([cost_document(cost) for cost in costs], indent=1) + "\n")
        else:
            for cost in costs:
                lines = cost_text(cost, page_map=page_map, top=top)
                stream.writelines(line + "\n" for line in lines)
    return status or _over_budget(costs, budget)


def _costs(libraries: Sequence[str], page_size: int) -> tuple[list[Cost], int]:
    """The costs of all libraries that can be read, and the exit status; the others are reported
    on stderr.
    """
    from samepage.analysis.cost import cost_of
    from samepage.elf.walk import open_objects

    costs, status = [], 0
    for path in libraries:
        try:
            costs += [cost_of(library, page_size) for library in open_objects(path)]
        except SamepageError as error:
            print(f"samepage: {error.message}", file=sys.stderr)
            status = 2
    return costs, status


def _write_diff(
    old: Sequence[Cost], new: Sequence[Cost], form: Form, output: str | None, top: int
) -> None:
    from samepage.analysis.cost_diff import compare_costs
    from samepage.report.cost_diff import diff_document, diff_markdown, diff_text

    changes = compare_costs(old, new)
    with writing(output, form) as stream:
        if form is JSON:
            stream.write(json.dumps(diff_document(changes), indent=1) + "\n")
        else:
            write = diff_markdown if form is MARKDOWN else diff_text
            stream.writelines(line + "\n" for line in write(changes, top))


def _over_budget(costs: Sequence[Cost], budget: int | None) -> int:
    """Report what is over the budget on stderr; the exit status."""
    over = [cost for cost in costs if budget is not None and cost.copied > budget]
    for cost in over:
        pages = "page is" if cost.copied == 1 else "pages are"
        print(
            f"samepage: {cost.path}: {cost.copied} {pages} copied at load, "
            f"over the budget of {budget}",
            file=sys.stderr,
        )
    return int(bool(over))
