"""`samepage report DIR`: print a snapshot that was saved, in any form."""

from samepage.cli.arguments import USAGE_ERROR, Parser, add_file, add_top, check_file
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.report import FORMATS, print_report, write_report


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("directory", metavar="DIRECTORY", help="A snapshot.")
    add(
        "-f",
        "--format",
        choices=list(FORMATS),
        dest="form",
        help="Form of the report; told by the suffix of FILE if not given, else text.",
    )
    add("-o", "--output", metavar="FILE", help="Write to FILE, replaced as a whole.")
    add("--timeline", action="store_true", help="The events in their order (of a model run).")
    add(
        "--scope",
        choices=("group", "system"),
        help="Who counts as sharing: the processes of the snapshot, or all that ran then. "
        "Default: group for a model run, system for a live capture.",
    )
    add_file(parser)
    add_top(parser)


def command(
    directory: str,
    form: str | None,
    output: str | None,
    timeline: bool,
    scope: str | None,
    file: str | None,
    top: int,
) -> None:
    """Print the report of the snapshot in DIRECTORY.

    A snapshot is what `-o DIR` of the other commands writes: one Parquet file per table.
    """
    use_one_thread()
    from samepage.analysis.counting import Scope
    from samepage.report.output import stdout_for
    from samepage.snapshot import store

    if timeline:
        if form not in (None, "timeline"):
            raise SamepageError(
                "--timeline is a format of its own: leave out --format", USAGE_ERROR
            )
        form = "timeline"
    check_file(file, output, form)
    snapshot = store.read(directory)
    chosen = Scope(scope) if scope else None
    if output is not None:
        write_report(snapshot, output, form, scope=chosen)
    elif form in (None, "text"):
        print_report(snapshot, scope=chosen, top=top or None, file=file)
    else:
        write_report(snapshot, stdout_for(form), form, scope=chosen)
