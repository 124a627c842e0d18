"""`samepage cost`: what each process that loads a library pays for it, and why."""

import json
import sys

from samepage.cli.arguments import Parser, add_output, add_top, number
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.report.forms import JSON, TEXT_OR_JSON, choose, writing


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
    add_output(parser, TEXT_OR_JSON)
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
    chosen = choose(output, form, TEXT_OR_JSON)
    use_one_thread()
    from samepage.analysis.cost import cost_of
    from samepage.elf.walk import open_objects
    from samepage.report.cost import cost_document, cost_text

    costs, status = [], 0
    for path in libraries:
        try:
            costs += [cost_of(library, page_size) for library in open_objects(path)]
        except SamepageError as error:
            # The others are shown.
            print(f"samepage: {error.message}", file=sys.stderr)
            status = 2
    if len(costs) > len(libraries):
        costs.sort(key=lambda cost: (-cost.copied, cost.path))
    with writing(output, chosen) as stream:
        if chosen is JSON:
            stream.write(json.dumps([cost_document(cost) for cost in costs], indent=1) + "\n")
        else:
            for cost in costs:
                lines = cost_text(cost, page_map=page_map, top=top)
                stream.writelines(line + "\n" for line in lines)
    over = [cost for cost in costs if budget is not None and cost.copied > budget]
    for cost in over:
        pages = "page is" if cost.copied == 1 else "pages are"
        print(
            f"samepage: {cost.path}: {cost.copied} {pages} copied at load, "
            f"over the budget of {budget}",
            file=sys.stderr,
        )
    return status or int(bool(over))
