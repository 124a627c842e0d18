"""`samepage diff A B`: what changed between two snapshots."""

from samepage.cli.arguments import Parser, add_output, add_top
from samepage.cli.blas import use_one_thread
from samepage.report.forms import JSON, TEXT_OR_JSON, choose, writing


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("before", metavar="BEFORE", help="The directory of a snapshot.")
    add("after", metavar="AFTER", help="The directory of a later one.")
    add(
        "--match",
        choices=("auto", "pid", "program"),
        default="auto",
        help="Which processes are the same: by pid, or by executable and arguments. "
        "auto: by pid for two captures of one boot of a host (default: %(default)s).",
    )
    add_output(parser, TEXT_OR_JSON)
    add("--exit-code", action="store_true", help="Exit with 1 if there is a difference.")
    add_top(parser)


def command(
    before: str,
    after: str,
    match: str,
    form: str | None,
    output: str | None,
    exit_code: bool,
    top: int,
) -> int:
    """Compare the snapshots in BEFORE and AFTER."""
    chosen = choose(output, form, TEXT_OR_JSON)
    use_one_thread()
    from samepage.analysis.diff import Match, diff
    from samepage.report.diff import print_diff, write_json, write_text
    from samepage.report.tables import Terminal
    from samepage.snapshot import parquet

    result = diff(parquet.read(before), parquet.read(after), Match(match))
    with writing(output, chosen) as stream:
        if chosen is JSON:
            write_json(result, stream)
        elif output is not None:
            write_text(result, stream)
        else:
            print_diff(result, Terminal(stream), top=top or None)
    return 1 if exit_code and not result.equal else 0
