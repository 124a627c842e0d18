"""The programs of a group, and how they are written: `:::` separates them."""

from __future__ import annotations

from collections.abc import Sequence

from samepage.errors import SamepageError

SEPARATOR = ":::"

Commands = Sequence[Sequence[str]]
"""The programs that run together: the words of each one, its name first."""


def split_commands(words: Sequence[str]) -> list[list[str]]:
    """The programs, each with its arguments. Raises `SamepageError` if one is empty."""
    programs: list[list[str]] = [[]]
    for word in words:
        if word == SEPARATOR:
            programs.append([])
        else:
            programs[-1].append(word)
    if not all(programs):
        raise SamepageError(f"a program is missing before or after {SEPARATOR}")
    return programs


def join_commands(commands: Commands) -> str:
    """A group as a shell would take it, which is also a line of a corpus file."""
    import shlex

    return f" {SEPARATOR} ".join(shlex.join(argv) for argv in commands)
