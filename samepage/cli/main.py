"""`samepage`: dispatch to the commands.

Each command is a module of its own that is imported only when it is called, so that
`samepage --help` starts in the time that Python and click need. A new command is one
module with a `command` object, and one line in `COMMANDS`.
"""

import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click

from samepage import __version__
from samepage.errors import SamepageError

TRACEBACK = "SAMEPAGE_TRACEBACK"
"""The environment variable that asks for the traceback of a bug."""
INTERNAL_ERROR = 70
"""`EX_SOFTWARE` of sysexits.h."""

COMMANDS: dict[str, str] = {
    # name: the line that `samepage --help` shows
    "demo": "Show how two programs come to share one library's pages, with evidence.",
    "live": "Show what the processes of the running system share.",
    "top": "Watch it, full-screen, down to the pages.",
    "run": "Run programs on the model machine, and report what they share.",
    "cost": "Show what each process pays that loads a library, and why.",
    "link": "Show what ld.so does with a program: search, order, bindings, relocations.",
    "verify": "Compare the model with the live kernel, page by page.",
    "report": "Print a snapshot that was saved.",
    "diff": "Compare two snapshots.",
}
"""The commands in the order of the help text; the module is `samepage.cli.NAME`."""


class ClosedPipe(Exception):
    """The reader of stdout went away. Click would turn a `BrokenPipeError` into status 1."""


class Interrupted(Exception):
    """Ctrl-C. Click would write an empty line for a `KeyboardInterrupt`."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"samepage.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ClosedPipe from error
        except KeyboardInterrupt as error:
            raise Interrupted from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="samepage")
def cli() -> None:
    """Show which physical pages processes share when they use the same shared libraries."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; no traceback reaches the user."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    A reader that goes away (`samepage live | head`) ends the command with the status
    that SIGPIPE would give, and Ctrl-C with that of SIGINT, both without a word.
    """
    try:
        result = cli.main(args=argv, prog_name="samepage", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        return 128 + signal.SIGINT
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except SamepageError as error:
        return _complain(error.message, error.exit_status)
    except (KeyboardInterrupt, Interrupted):
        return 128 + signal.SIGINT
    except (BrokenPipeError, ClosedPipe):
        _silence_stdout()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _silence_stdout()
            return _complain(f"cannot write the output: {error.strerror}", 2)
        return _internal(error)
    except Exception as error:
        return _internal(error)


def _internal(error: Exception) -> int:
    """A bug of samepage: one line for the user, the traceback for who asks for it."""
    if os.environ.get(TRACEBACK):
        raise error
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return _complain(f"internal error: {what} ({TRACEBACK}=1 shows where)", INTERNAL_ERROR)


def _complain(message: str, status: int) -> int:
    click.echo(f"samepage: {message}", err=True)
    return status


def _silence_stdout() -> None:
    # The interpreter flushes stdout at exit; what is left in its buffer has nowhere to go.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
