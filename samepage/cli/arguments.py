"""The command lines: what the commands share of argparse.

The parser is the standard library's because start-up counts: the import of click, which this
project used at first, takes 25 ms, as long as a short program runs on the model machine.

A command module gives `arguments(parser)`, which declares its command line, and `command`,
which takes it as keywords, or as one record `Options` if the module defines that; the
docstring of `command` is its help text. Mistakes are reported in
one line and with status 2, as everything is (`SamepageError`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

from samepage.errors import SamepageError
from samepage.report.forms import SNAPSHOT, TEXT, TOP, Form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypeVar

    from _typeshed import SupportsWrite

    Number = TypeVar("Number", int, float)

USAGE_ERROR = 2
"""The exit status of a wrong command line, as a shell's builtins have it."""

FOREIGN = (argparse.PARSER, argparse.REMAINDER)
"""What follows the first of such arguments belongs to another command."""


class HelpFormatter(argparse.HelpFormatter):
    """Help that keeps the paragraphs of a docstring, and the line breaks of indented ones."""

    def __init__(self, prog: str, width: int = 78) -> None:
        super().__init__(prog, max_help_position=28, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap  # only for help

        text = textwrap.dedent(f"    {text}").strip()
        paragraphs = [
            part
            if part.startswith("    ")
            else textwrap.fill(part, width, initial_indent=indent, subsequent_indent=indent)
            for part in text.split("\n\n")
        ]
        return "\n\n".join(paragraphs)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `SamepageError`s, and that takes options among arguments."""

    def __init__(self, prog: str, description: str | None, usage: str | None = None) -> None:
        super().__init__(
            prog,
            usage and f"{prog} {usage}",
            description,
            formatter_class=HelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("-h", "--help", action="help", help="Show this message and exit.")
        self.after_dashes = ""
        """The name of the value that takes all words after "--", if the command starts them."""

    def format_help(self) -> str:
        # argparse makes a formatter for each option, to check it. Only the one that prints
        # need know the terminal, since that takes another import.
        import shutil

        width = shutil.get_terminal_size().columns - 2
        self.formatter_class = partial(HelpFormatter, width=width)
        return super().format_help()

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse's own one keeps silent when the help cannot be written.
        (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        raise SamepageError(f"{message} (see {self.prog} --help)", USAGE_ERROR)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse a command line. Raises `SamepageError`, or `SystemExit` after --help."""
        if self.after_dashes:
            at = argv.index("--") if "--" in argv else len(argv)
            arguments = self.parse_intermixed_args(argv[:at])
            setattr(arguments, self.after_dashes, list(argv[at + 1 :]))
            return arguments
        if not any(action.nargs in FOREIGN for action in self._get_positional_actions()):
            return self.parse_intermixed_args(argv)
        arguments = self.parse_args(argv)
        words = getattr(arguments, "words", [])
        if words[:1] == ["--"]:
            del words[0]
        return arguments


def number(
    kind: type[Number], least: Number, most: Number | None = None, *, above: bool = False
) -> Callable[[str], Number]:
    """Return the type of an option that takes a number, `least` (or only `above`) to `most`."""
    name = "a whole number" if kind is int else "a number"
    limit = f"{name} {'above' if above else 'from'} {least}" + (f" to {most}" if most else "")

    def convert(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if (
            value is None
            or not (value > least or (value == least and not above))
            or (most is not None and value > most)
        ):
            raise argparse.ArgumentTypeError(f"{text!r} is not {limit}")
        return value

    return convert


def variables(settings: Sequence[str]) -> dict[str, str]:
    """The variables of `--env NAME=VALUE`. Raises `SamepageError` for what is none."""
    pairs = [text.partition("=") for text in settings]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise SamepageError(f"--env {name}: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


class _Select(argparse.Action):
    """Appends (kind, value) to `selection`; the kind is the option's name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        kind = (option_string or "").removeprefix("--")
        chosen = (kind, str(values))
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), chosen))


def add_selection(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare which processes are meant: `targets`, and `selection` of options (`Selection.of`)."""
    parser.add_argument("targets", nargs="*", metavar="PID|NAME", help=what)
    for kind, value, text in (
        ("cgroup", "PATH", "Processes in this control group or below it."),
        ("unit", "NAME", "... of this unit of systemd; * and ? match parts of a name."),
        ("pod", "NAME", "... of this pod, by name, NAMESPACE/NAME or id."),
        ("container", "NAME", "... of this container, by the name it was given or its id."),
        ("user", "NAME", "... of this user, by name or number."),
        ("tree", "PID|NAME", "... this process and all that descend from it."),
    ):
        parser.add_argument(
            f"--{kind}", action=_Select, dest="selection", default=(), metavar=value, help=text
        )


def add_by(parser: argparse.ArgumentParser) -> None:
    """Declare `--by`: groups instead of processes."""
    parser.add_argument(
        "--by",
        choices=("program", "unit", "pod", "container", "user", "tree"),
        help="Group the processes; tree: by the process that all descend from.",
    )


def check_by(by: str | None, output: str | None, form: Form) -> None:
    """Raise `SamepageError` if `--by` is asked of anything but text on the terminal, or top."""
    if by is not None and (output is not None or form not in (TEXT, TOP)):
        raise SamepageError(
            "--by is for the terminal: leave out -o and -f (JSON and HTML have all groups)",
            USAGE_ERROR,
        )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Declare `--engine`: what executes the programs of the model machine."""
    from samepage.cpu import engines

    parser.add_argument(
        "--engine",
        choices=engines.NAMES,
        default=engines.DEFAULT,
        help="What executes the programs: an emulator, or this processor itself in processes of "
        "their own (default: %(default)s).",
    )


def add_top(parser: argparse.ArgumentParser, default: int = 20) -> None:
    """Declare `--top`: how many rows a person wants to see."""
    parser.add_argument(
        "--top",
        type=number(int, 0),
        default=default,
        metavar="ROWS",
        help="Rows of each table on the terminal; 0 for all (default: %(default)s).",
    )


def add_output(parser: argparse.ArgumentParser, forms: Sequence[Form]) -> None:
    """Declare `-o` and `-f`, the same for all commands; the first of `forms` is the default."""
    suffixes = ", ".join(f"{form.suffixes[0]} {form.name}" for form in forms if form.suffixes)
    directory = SNAPSHOT in forms
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE|DIR" if directory else "FILE",
        help=f"Write to FILE, replaced as a whole; its suffix decides the form ({suffixes})"
        + (", or a snapshot to the directory DIR." if directory else "."),
    )
    parser.add_argument(
        "-f",
        "--format",
        choices=[form.name for form in forms],
        dest="form",
        metavar="FORM",
        help=f"{', '.join(form.name for form in forms)} (default: by the suffix, else "
        f"{forms[0].name}).",
    )


def add_file(parser: argparse.ArgumentParser) -> None:
    """Declare `--file`: the pages of one file instead of the whole report."""
    parser.add_argument(
        "--file",
        metavar="NAME",
        help="Report only the files whose path ends in NAME: how many pages are mapped how "
        "often, and which were copied by how many processes.",
    )


def check_file(file: str | None, output: str | None, form: Form) -> None:
    """Raise `SamepageError` if `--file` is asked of anything but text on the terminal."""
    if file is not None and (output is not None or form is not TEXT):
        raise SamepageError(
            "--file is text for the terminal: leave out -o and -f (JSON and HTML have it of every "
            "file)",
            USAGE_ERROR,
        )


def add_programs(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declare the programs to run as `words`: all that follows the options."""
    parser.add_argument(
        "words",
        nargs=argparse.PARSER if required else argparse.REMAINDER,
        metavar="PROGRAM",
        help="The programs and their arguments, separated by :::.",
    )
