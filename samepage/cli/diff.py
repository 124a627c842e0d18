"""`samepage diff A B`: what changed between two snapshots."""

from samepage.cli.arguments import Parser, add_top
from samepage.cli.blas import use_one_thread


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
    add("-f", "--format", choices=("text", "json"), dest="form", help="Default: text.")
    add("-o", "--output", metavar="FILE", help="Write to FILE, replaced as a whole.")
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
    use_one_thread()
    from samepage.analysis.diff import Match, diff
    from samepage.report.diff import print_diff, write_json, write_text
    from samepage.report.output import replacing, stdout_for
    from samepage.report.tables import console_for
    from samepage.snapshot import store

    result = diff(store.read(before), store.read(after), Match(match))
    if form is None:
        form = "json" if output is not None and output.endswith(".json") else "text"
    if output is not None:
        with replacing(output) as stream:
            (write_json if form == "json" else write_text)(result, stream)
    elif form == "json":
        write_json(result, stdout_for("json"))
    else:
        print_diff(result, console_for(None), top=top or None)
    return 1 if exit_code and not result.equal else 0
