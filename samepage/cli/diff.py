"""`samepage diff A B`: what changed between two snapshots."""

import sys

import click


@click.command()
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@click.option(
    "--match",
    type=click.Choice(["auto", "pid", "program"]),
    default="auto",
    show_default=True,
    help="Which processes are the same: by pid, or by executable and arguments. "
    "auto: by pid for two captures of one boot of a host.",
)
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), help="Default: text.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, replaced as a whole.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a difference.")
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Rows of each table on the terminal; 0 for all.",
)
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
    from samepage.analysis.diff import Match, diff
    from samepage.report.diff import print_diff, write_json, write_text
    from samepage.report.output import replacing
    from samepage.report.tables import console_for
    from samepage.snapshot import store

    result = diff(store.read(before), store.read(after), Match(match))
    if form is None:
        form = "json" if output is not None and output.endswith(".json") else "text"
    if output is not None:
        with replacing(output) as stream:
            (write_json if form == "json" else write_text)(result, stream)
    elif form == "json":
        write_json(result, sys.stdout)
    else:
        print_diff(result, console_for(None), top=top or None)
    return 1 if exit_code and not result.equal else 0
