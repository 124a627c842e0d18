"""`samepage`: dispatch to the commands.

Each command is a module of its own that is imported only when it is called, so that
`samepage --help` starts in the time that Python and argparse need. A new command is one
module (see `samepage.cli.arguments`) and one line in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from samepage import __version__
from samepage.cli.arguments import USAGE_ERROR, Parser
from samepage.errors import SamepageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TextIO


TRACEBACK = "SAMEPAGE_TRACEBACK"
"""The environment variable that asks for the traceback of a bug."""
INTERNAL_ERROR = 70
"""`EX_SOFTWARE` of sysexits.h."""

_KILLED = 128
"""Added to the number of a signal: the status that shells report for a program it ended."""
_SIGINT, _SIGPIPE = 2, 13  # signal(7); the module `signal` makes enumerations of all of them

COMMANDS: dict[str, str] = {
    # name: the line that `samepage --help` shows
    "demo": "Show how two programs come to share one library's pages, with evidence.",
    "live": "Show what the processes of the running system share.",
    "why": "Show who writes to memory that was shared since a fork, and what it costs.",
    "top": "Watch it, full-screen, down to the pages.",
    "run": "Run programs on the model machine, and report what they share.",
    "cost": "Show what each process pays that loads a library, and why.",
    "image": "Show whether an image's programs link, and what images share on one host.",
    "link": "Show what ld.so does with a program: search, order, bindings, relocations.",
    "verify": "Compare the model with the live kernel, page by page.",
    "report": "Print a snapshot that was saved.",
    "diff": "Compare two snapshots.",
}
"""The commands in the order of the help text; the module is `samepage.cli.NAME`."""


class MainParser(Parser):
    """The parser of `samepage` itself, whose help lists the commands."""

    def __init__(self) -> None:
        super().__init__(
            "samepage",
            "Show which physical pages processes share when they use the same shared libraries."
            "\n\nExit status: 0; 1 if a command that was asked to judge (verify, link --check, "
            "cost --budget, diff --exit-code) finds something; 2 if something "
            "cannot be done, which a line explains. run returns its program's.",
            "[-h] [-V] COMMAND [ARGUMENT]...",
        )
        version = f"samepage, version {__version__}"
        self.add_argument(
            "-V", "--version", action="version", version=version, help="Show the version and exit."
        )
        self.add_argument("command", nargs=argparse.PARSER, help=argparse.SUPPRESS)

    def format_help(self) -> str:
        text = super().format_help()
        formatter = self._get_formatter()
        formatter.start_section("commands")
        for name, line in COMMANDS.items():
            formatter.add_argument(argparse.Action([], name, metavar=name, help=line))
        formatter.end_section()
        return text + "\n" + formatter.format_help()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; no traceback reaches the user."""
    _open_closed_streams()
    status = run(argv)
    if sys.gettrace() or sys.getprofile():
        sys.exit(status)
    _leave(status)


def _leave(status: int) -> NoReturn:
    """End at once: to take NumPy's modules apart one by one is a tenth of `samepage live`.

    So no command leaves anything to be done at exit (threads to wait for, temporary files);
    only a profiler or a debugger does.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    A reader that goes away (`samepage live | head`) ends the command with the status
    that SIGPIPE would give, and Ctrl-C with that of SIGINT, both without a word.
    """
    _escape_what_cannot_be_encoded()
    try:
        status = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except SamepageError as error:
        return _complain(error.message, error.exit_status)
    except KeyboardInterrupt:
        return _KILLED + _SIGINT
    except BrokenPipeError:
        _silence_stdout()
        return _KILLED + _SIGPIPE
    except OSError as error:
        if error.errno == errno.ENOSPC or (error.errno == errno.EBADF and not _can_write()):
            _silence_stdout()
            return _complain(f"cannot write the output: {error.strerror}", 2)
        return _internal(error)
    except Exception as error:
        return _internal(error)


def _open_closed_streams() -> None:
    """Give each standard stream that is closed a descriptor that cannot be used.

    Otherwise the next file to be opened would get its number, and our output with it, or a
    guest's (as gnulib's `stdopen`).
    """
    for fd, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number, which is `fd`
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")


def _stream(fd: int, mode: str) -> TextIO:
    return open(fd, mode, encoding="utf-8", closefd=False)  # type: ignore[return-value]


def _can_write() -> bool:
    """Whether stdout and stderr are open for writing."""
    import fcntl

    modes = (fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in (1, 2))
    return all(mode != os.O_RDONLY for mode in modes)


def _escape_what_cannot_be_encoded() -> None:
    """A name that stdout's encoding lacks, or three dots, is no reason to fail."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8"):
        reconfigure(errors="backslashreplace")


def _dispatch(argv: Sequence[str]) -> int:
    """Import the command that is asked for, parse its command line and call it."""
    if not argv:
        MainParser().print_help(sys.stderr)
        return USAGE_ERROR
    try:
        name, *rest = argv
        if name not in COMMANDS:
            name = MainParser().parse(argv).command[0]  # unless it asks for --help
            raise SamepageError(_unknown(name), USAGE_ERROR)
        module = importlib.import_module(f"samepage.cli.{name}")
        parser = Parser(f"samepage {name}", module.command.__doc__, getattr(module, "USAGE", None))
        module.arguments(parser)
        arguments = vars(parser.parse(rest))
    except SystemExit:  # after --help and --version
        return 0
    options = getattr(module, "Options", None)
    if options is not None:
        return module.command(options(**arguments)) or 0
    return module.command(**arguments) or 0


def _unknown(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, 1)
    meant = f"did you mean {near[0]}?" if near else "see samepage --help"
    return f"there is no command {name!r} ({meant})"


def _internal(error: Exception) -> int:
    """A bug of samepage: one line for the user, the traceback for who asks for it."""
    if os.environ.get(TRACEBACK):
        raise error
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return _complain(f"internal error: {what} ({TRACEBACK}=1 shows where)", INTERNAL_ERROR)


def _complain(message: str, status: int) -> int:
    from samepage.report.sizes import printable

    message = printable(message)  # it may quote a name, and that may hold anything
    with contextlib.suppress(OSError):
        print(f"samepage: {message}", file=sys.stderr)
    return status


def _silence_stdout() -> None:
    # The interpreter flushes stdout at exit; what is left in its buffer has nowhere to go.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
