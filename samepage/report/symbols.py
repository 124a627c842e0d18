"""Symbols as people read them: C++ and Rust names demangled.

The library for it is loaded when the first mangled name is shown; JSON keeps the names of the
files, which are what other tools look for.
"""

from functools import cache

from samepage.report.sizes import printable


@cache
def readable(symbol: str) -> str:
    """The name of a symbol, demangled if it is mangled, and with nothing unprintable."""
    if not symbol.startswith(("_Z", "_R")):
        return printable(symbol)
    import demangle

    return printable(demangle.demangle(symbol))
