"""`samepage why`: who un-shares the memory of running processes."""

from samepage.cli.arguments import Parser, add_output, add_top, number
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.report.forms import JSON, TEXT_OR_JSON, choose, writing

_MIN_EPOCH = 0.01


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add(
        "targets",
        nargs="+",
        metavar="PID|NAME",
        help="The processes; what they have forked and fork meanwhile belongs to them.",
    )
    add(
        "--for",
        dest="duration",
        metavar="TIME",
        default="10s",
        help="How long to watch, as 500ms, 30s, 5m (default: %(default)s); Ctrl-C ends it early.",
    )
    add(
        "--epoch",
        metavar="TIME",
        help="Protect written pages again each TIME (100ms, say), so that later writers are "
        "found too, and savings are no upper bounds. Costs the processes a fault for each page "
        "that they write to in an epoch.",
    )
    add(
        "--fail-over",
        metavar="MIB",
        type=number(float, 0),
        help="Exit with 1 if more than so many MiB were copied.",
    )
    add_output(parser, TEXT_OR_JSON)
    add_top(parser)


def command(
    targets: list[str],
    duration: str,
    epoch: str | None,
    fail_over: float | None,
    form: str | None,
    output: str | None,
    top: int,
) -> int:
    """Show who writes to the memory that processes share since a fork, and what it costs.

    Watches the processes and all that they fork. A page that one of them writes to is copied:
    the answer names the functions that write, groups them by cause, and shows what each cause's
    end would save. It needs root, and x86-64.
    """
    chosen = choose(output, form, TEXT_OR_JSON)
    seconds = _seconds("--for", duration)
    again = _seconds("--epoch", epoch) if epoch is not None else 0.0
    if epoch is not None and again < _MIN_EPOCH:
        raise SamepageError(f"--epoch {epoch}: less than 10ms leaves the processes no time to run")
    use_one_thread()
    from samepage.analysis.why import explain
    from samepage.lab.follow import follow
    from samepage.live.select import find_processes
    from samepage.report.tables import Terminal
    from samepage.report.why import Observation, print_why, write_json, write_text
    from samepage.snapshot.columns import PAGE_SIZE

    found = follow(find_processes(targets), seconds, epoch=again)
    answer = explain(
        found.before, found.after, found.parents, found.writes, all_writers=found.epochs > 0
    )
    seen = Observation(sorted(found.names.items()), found.seconds, found.epochs, found.missing)
    with writing(output, chosen) as stream:
        if chosen is JSON:
            write_json(answer, seen, stream)
        elif output is not None:
            write_text(answer, seen, stream)
        else:
            print_why(answer, seen, Terminal(stream), top=top or None)
    copied = answer.copied * PAGE_SIZE / (1 << 20)
    return int(fail_over is not None and copied > fail_over)


def _seconds(option: str, text: str) -> float:
    """A duration with its unit, in seconds. Raises `SamepageError`."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit)) * factor
            except ValueError:
                break
            if 0 < value < float("inf"):
                return value
            break
    raise SamepageError(f"{option} {text}: a time is a number with a unit, as 500ms, 30s or 5m")
