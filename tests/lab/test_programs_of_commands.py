"""`:::` between the programs of a command line or of a line of a corpus."""

import shlex

import pytest

from samepage.errors import SamepageError
from samepage.lab.commands import join_commands, split_commands


def test_words_are_split_into_programs() -> None:
    assert split_commands(["a", "1", ":::", "b"]) == [["a", "1"], ["b"]]


@pytest.mark.parametrize("words", [[], [":::"], ["a", ":::"], [":::", "a"]])
def test_a_missing_program_is_an_error(words: list[str]) -> None:
    with pytest.raises(SamepageError, match="missing"):
        split_commands(words)


def test_a_group_that_is_joined_is_split_into_the_same_programs() -> None:
    commands = [["bash", "-c", "echo 'a b' ::: $x"], ["true"]]
    assert split_commands(shlex.split(join_commands(commands))) == commands
