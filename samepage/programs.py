"""Several programs in one command line: `:::` stands between them."""

from collections.abc import Sequence

from samepage.errors import SamepageError

SEPARATOR = ":::"


def split_programs(words: Sequence[str]) -> list[list[str]]:
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
