"""Prose and names use the words of kernel documentation, and keep to them.

A function reports, prints or returns; it does not "tell" or "say". The words below are refused in
comments, docstrings, documents and identifiers, and in the strings that samepage prints. What is
quoted ("..." or `...`) is the text of others. Strings of tests are data, and not looked at.
"""

import ast
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = ("samepage", "benchmarks", "corpus", "kernels", "tests")
PYTHON = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
C = sorted((ROOT / "tests").rglob("*.c"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

WORD = re.compile(
    r"\b(tells?|telling|told|says?|saying|said|goes on|go on|going on|went on|nobody|somebody"
    r"|alike|stands?|standing|stood|by and by|to be had)\b",
    re.IGNORECASE,
)
PART = re.compile(r"(?:^|_)(tells?|told|says?|said|nobody|somebody|stands|stood)(?=_|$)")
QUOTED = re.compile(r"``?[^`]*``?|\"[^\"\n]*\"|(?<!\w)'[^'\n]*'(?!\w)")
STRING = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'")


def words(text: str) -> list[str]:
    """Return the refused words of a piece of prose, without what it quotes."""
    return WORD.findall(QUOTED.sub("", text))


def of_python(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yield (line, word) for what is refused in a module."""
    source = path.read_text()
    tree = ast.parse(source)
    ours = path.is_relative_to(ROOT / "samepage")
    for node in ast.walk(tree):
        text = node if ours else node.value if isinstance(node, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            yield from ((text.lineno, word) for word in words(text.value))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from ((token.start[0], word) for word in words(token.string))
        elif token.type == tokenize.NAME and token.string != "tell":  # `io.IOBase.tell`
            yield from ((token.start[0], word) for word in PART.findall(token.string.lower()))


def of_c(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yield (line, word) for what is refused in a C program: its strings are left out."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = STRING.sub("", line)
        yield from ((number, word) for word in words(text))
        for name in re.findall(r"\w+", text):
            yield from ((number, word) for word in PART.findall(name.lower()))


def of_document(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yield (line, word) for what is refused in a document: code blocks are left out."""
    code = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = line.lstrip().startswith("```")
        code ^= fence
        if not (code or fence or line.startswith("    ")):
            yield from ((number, word) for word in words(line))


@pytest.mark.parametrize(
    ("find", "paths"),
    [(of_python, PYTHON), (of_c, C), (of_document, DOCUMENTS)],
    ids=["python", "c", "documents"],
)
def test_no_refused_word(find, paths) -> None:
    assert paths
    found = [f"{path.relative_to(ROOT)}:{n}: {word}" for path in paths for n, word in find(path)]
    assert not found, "\n".join(found)


def test_refused_words_are_found(tmp_path: pathlib.Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""It tells, and "says" `told`."""\nhe_said = 1  # stands\n')
    assert [word for _, word in of_python(module)] == ["tells", "said", "stands"]
