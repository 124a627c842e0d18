"""`samepage report DIR`: print a snapshot that was saved, in any form."""

import sys

import click

from samepage.report import FORMATS, print_report, write_report


@click.command()
@click.argument("directory", type=click.Path())
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    help="Form of the report; told by the suffix of FILE if not given, else text.",
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, replaced as a whole.")
@click.option("--timeline", is_flag=True, help="The events in their order (of a model run).")
@click.option(
    "--scope",
    type=click.Choice(["group", "system"]),
    help="Who counts as sharing: the processes of the snapshot, or all that ran then. "
    "Default: group for a model run, system for a live capture.",
)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Rows of each table on the terminal; 0 for all.",
)
def command(
    directory: str,
    form: str | None,
    output: str | None,
    timeline: bool,
    scope: str | None,
    top: int,
) -> None:
    """Print the report of the snapshot in DIRECTORY.

    A snapshot is what `-o DIR` of the other commands writes: one Parquet file per table.
    """
    from samepage.analysis.counting import Scope
    from samepage.snapshot import store

    if timeline:
        if form not in (None, "timeline"):
            raise click.UsageError("--timeline is a format of its own: leave out --format")
        form = "timeline"
    snapshot = store.read(directory)
    chosen = Scope(scope) if scope else None
    if output is not None:
        write_report(snapshot, output, form, scope=chosen)
    elif form in (None, "text"):
        print_report(snapshot, scope=chosen, top=top or None)
    else:
        write_report(snapshot, sys.stdout, form, scope=chosen)
