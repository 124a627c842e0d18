"""The lines that ld.so writes to stderr, from the linker's own errors and warnings.

ld.so calls the program by its argv[0], where the linker has its path; it names the source of
a preload, and keeps its reason short.
"""

import re

from samepage.errors import SamepageError
from samepage.linker.errors import Crash, FailedAssertion
from samepage.linker.search import LinkerConfig

_CANNOT_OPEN = "cannot open shared object file"
_OPEN_ERROR = re.compile(f"{_CANNOT_OPEN}: .*")
_PRELOAD = re.compile(r"object '(.*)' from preload cannot be preloaded \((.*)\): ignored")


def warning_line(program: str, path: str, warning: str, config: LinkerConfig) -> str:
    """The line for a warning. `program` is argv[0], `path` what the linker calls it."""
    match = _PRELOAD.fullmatch(warning)
    if "cannot be loaded as audit interface" in warning:
        text = _NEEDED_BY.sub("", warning.removesuffix("; ignored"))
        return f"ERROR: ld.so: {_OPEN_ERROR.sub(_CANNOT_OPEN, text)}; ignored."
    if warning.startswith("warning: "):
        return warning
    if warning.startswith(f"{path}: Relink "):
        return program + warning.removeprefix(path)
    if match is None:
        return f"{program}: {_required_by(program, path, warning)}"
    name, reason = match.groups()
    source = "LD_PRELOAD" if name in config.preload else config.preload_file
    if _CANNOT_OPEN in reason:
        reason = _CANNOT_OPEN
    return f"ERROR: ld.so: object '{name}' from {source} cannot be preloaded ({reason}): ignored."


_SYMBOL_ERROR = re.compile(r"(.*): symbol lookup error: (undefined symbol: .*)")
_INDIRECT = re.compile(r"(.*: error due to GNU_PROPERTY\w*) \(symbol (.*)\)")
_NEEDED_BY = re.compile(r", needed by [^,]*$")


def error_line(program: str, path: str, error: SamepageError) -> str:
    """The line for the error that ends the program."""
    text = error.message
    symbol = _SYMBOL_ERROR.fullmatch(text)
    if symbol is not None:
        user = program if symbol[1] == path else symbol[1]
        return f"{program}: symbol lookup error: {user}: {symbol[2]}"
    indirect = _INDIRECT.fullmatch(text)
    if indirect is not None:
        return f"{program}: {indirect[2]}: {indirect[1]}"
    if "version `" in text:
        return f"{program}: {_required_by(program, path, text)}"
    if text.startswith(f"{path}: "):
        text = program + text.removeprefix(path)
    if "creates an unsatisfiable circular dependency" in text:
        return text
    if "DT_RELR without" in text:
        return f"{program}: {text}"
    return f"{program}: error while loading shared libraries: {_NEEDED_BY.sub('', text)}"


def _required_by(program: str, path: str, text: str) -> str:
    return text.replace(f"(required by {path})", f"(required by {program})")


def is_same_end(theirs: str, program: str, path: str, error: SamepageError) -> bool:
    """Whether `theirs`, the last line of ld.so (or the signal that ended it), is what the
    linker's own error predicts.
    """
    if isinstance(error, FailedAssertion):
        expected = f": {error.function}: Assertion `{error.assertion}' failed!"
        return theirs.startswith("Inconsistency detected by ld.so: ") and theirs.endswith(expected)
    if isinstance(error, Crash):
        return theirs.startswith("SIG")
    return theirs == error_line(program, path, error)
