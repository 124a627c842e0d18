"""The answer of `samepage why` as one HTML page: no network, no script, everything escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TextIO

from samepage.analysis.copies import Cause
from samepage.analysis.why import Why
from samepage.report.sizes import count, printable, size
from samepage.report.treemap import Node, treemap
from samepage.report.why import Observation, remedies, words

_COLOURS = ("#4dabf7", "#ffa94d", "#69db7c", "#da77f2", "#ff8787", "#ffd43b", "#38d9a9", "#b197fc")
_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th.name, td.name { text-align: left; white-space: normal; overflow-wrap: anywhere; }
svg.treemap { width: 100%; height: auto; display: block; }
svg.treemap text { font: 11px system-ui, sans-serif; fill: #111; pointer-events: none; }
svg.treemap rect { stroke: #fff; stroke-width: 1; fill-opacity: .55; }
svg.treemap rect.leaf { fill-opacity: 1; stroke-width: .5; }
""" + "\n".join(f"rect.c{number} {{ fill: {colour}; }}" for number, colour in enumerate(_COLOURS))


def write_html(why: Why, seen: Observation, stream: TextIO) -> None:
    """Write the page."""
    for part in _parts(why, seen):
        stream.write(part)


def _parts(why: Why, seen: Observation) -> Iterable[str]:
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>samepage why</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        "<h1>samepage why</h1>\n"
    )
    for line in (*words(why, seen), *remedies(why)):
        yield f"<p>{escape(printable(line))}</p>\n" if line else ""
    yield "<h2>Copied pages by cause and function</h2>\n"
    yield treemap(_nodes(why))
    titles = {cause.function: why.classes[cause.function].title for cause in why.by_class}
    yield _table(why, "Causes", why.by_class, titles)
    functions = {
        number: f"{function} ({function.file.rpartition('/')[2] or 'no file'})"
        for number, function in enumerate(why.functions)
    }
    yield _table(why, "Functions that write", why.by_function, functions)
    if why.by_script:
        yield _table(why, "In functions of scripts", why.by_script, functions)
    rows = [
        [size(area.pages), f"{area.pages:,}", f"{area.processes:,}", str(area.area)]
        for area in why.by_area
    ]
    yield _html_table("Memory that was copied", ["Copied", "Pages", "Processes", "Memory"], rows)
    yield "</body>\n</html>\n"


def _nodes(why: Why) -> list[Node]:
    """Causes, and in each the functions that made copies."""
    inside: dict[int, list[Node]] = {}
    for cause in why.by_function:
        function = why.functions[cause.function]
        detail = f"{count(cause.copied, 'page')} ({size(cause.copied)}), {function.file}"
        node = Node(str(function), detail, cause.copied)
        inside.setdefault(why.class_of[cause.function], []).append(node)
    return [
        Node(
            why.classes[cause.function].title,
            f"{count(cause.copied, 'page')} ({size(cause.copied)})",
            cause.copied,
            inside.get(cause.function, []),
        )
        for cause in why.by_class
    ]


def _table(why: Why, title: str, causes: Sequence[Cause], names: dict[int, str]) -> str:
    saves = "Saves" if why.all_writers else "Saves at most"
    rows = [
        [
            size(cause.saved),
            *(f"{n:,}" for n in (cause.saved, cause.touched, cause.copied, cause.processes)),
            names[cause.function],
        ]
        for cause in causes
    ]
    return _html_table(
        title, [saves, "Pages", "Wrote to", "Wrote first", "Processes", "Name"], rows
    )


def _html_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        *numbers, name = (escape(printable(cell)) for cell in cells)
        shown = "".join(f"<{tag}>{number}</{tag}>" for number in numbers)
        return f'<tr>{shown}<{tag} class="name">{name}</{tag}></tr>\n'

    body = row(heads, "th") + "".join(row(cells, "td") for cells in rows)
    return f'<h2>{title}</h2>\n<div class="scroll"><table>\n{body}</table></div>\n'
