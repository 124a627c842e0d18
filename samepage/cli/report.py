"""`samepage report DIR`: print a snapshot that was saved, in any form."""

from samepage.cli.arguments import (
    Parser,
    add_by,
    add_file,
    add_output,
    add_selection,
    add_top,
    check_by,
    check_file,
)
from samepage.cli.blas import use_one_thread
from samepage.groups.selection import Selection, group_path
from samepage.report import put_report
from samepage.report.forms import REPORTS, choose


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("directory", metavar="DIRECTORY", help="A snapshot.")
    add_selection(parser, "Processes of it; without any, all of them.")
    add_by(parser)
    add_output(parser, REPORTS)
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
    targets: list[str],
    selection: tuple[tuple[str, str], ...],
    by: str | None,
    output: str | None,
    form: str | None,
    scope: str | None,
    file: str | None,
    top: int,
) -> None:
    """Print the report of the snapshot in DIRECTORY.

    A snapshot is what `-o DIR` of the other commands writes: one Parquet file per table. `-f
    timeline` prints the events of a model run.
    """
    chosen = choose(output, form, REPORTS)
    check_file(file, output, chosen)
    check_by(by, output, chosen)
    use_one_thread()
    from samepage.analysis.counting import Scope
    from samepage.analysis.select import select
    from samepage.snapshot import parquet
    from samepage.snapshot.columns import ASKED_CGROUP

    snapshot = parquet.read(directory)
    wanted = Selection.of(targets, selection)
    if wanted:
        snapshot = select(snapshot, wanted)
        snapshot.meta |= {f"{ASKED_CGROUP}{group_path(p)}": "" for p in wanted.values("cgroup")}
    chosen_scope = Scope(scope) if scope else None
    put_report(snapshot, chosen, output, scope=chosen_scope, top=top, file=file, by=by)
