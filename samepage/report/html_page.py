"""The frame of an HTML page: style, policy, the script that sorts, and tables.

The page loads nothing. Its policy names the one script by its digest, so that no text of the
machine that was looked at could be run even if it were not escaped.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --line: #8884; --absent: #8882; --cached: #8886;
  --copied: #d9480f; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.answer { font-size: 1.1rem; } .note { color: #b35900; }
.scroll { overflow: auto; max-height: 40rem; max-width: max-content; }
nav ul { columns: 14rem; padding-left: 1.2rem; margin: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; min-width: 8ch; }
thead th { position: sticky; top: 0; background: Canvas; cursor: pointer; }
th[aria-sort=descending]::after { content: " \\25be"; }
th[aria-sort=ascending]::after { content: " \\25b4"; }
th.name, td.name { text-align: left; min-width: 16ch; }
td.name > span, td.name > details > summary { display: block; max-width: min(60ch, 45vw);
  overflow: hidden; text-overflow: ellipsis; }
td.name > details > summary::before { content: "\\25b8  "; }
td.name > details[open] > summary::before { content: "\\25be  "; }
td.name > details[open] > summary { white-space: normal; overflow-wrap: anywhere; }
td.code { font-family: ui-monospace, monospace; }
summary { cursor: pointer; } small { opacity: .75; }
svg.pages { max-width: 100%; height: auto; display: block; margin: .4rem 0 1rem; }
.legend span { display: inline-block; margin-right: 1rem; }
.legend svg { vertical-align: middle; margin-right: .3rem; }
rect.absent { fill: var(--absent); } rect.cached { fill: var(--cached); }
rect.copied { fill: var(--copied); stroke: var(--copied); }
rect.m1 { fill: #a5d8ff; } rect.m2 { fill: #74c0fc; } rect.m3 { fill: #4dabf7; }
rect.m4 { fill: #228be6; } rect.m5 { fill: #1971c2; } rect.m6 { fill: #1864ab; }
rect.m7 { fill: #0b3d6e; }
rect.copied.m1, rect.copied.m2, rect.copied.m3, rect.copied.m4, rect.copied.m5,
rect.copied.m6, rect.copied.m7 { stroke-width: 3; paint-order: stroke; }
"""

SORT = """
for (const head of document.querySelectorAll("thead th")) {
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const parts = /^([+-]?[0-9.,]+) ?(B|KiB|MiB|GiB|TiB|PiB|%)?$/.exec(text);
    if (!parts) return text === "" ? -1 : text;
    const unit = ["KiB", "MiB", "GiB", "TiB", "PiB"].indexOf(parts[2]);
    const scale = parts[2] === "B" ? 1 / 1024 : 1024 ** Math.max(unit, 0);
    return parseFloat(parts[1].replaceAll(",", "")) * scale;
  };
  const sort = () => {
    const heads = [...head.parentNode.cells];
    const column = heads.indexOf(head);
    const descending = head.getAttribute("aria-sort") !== "descending";
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    const compare = (a, b) =>
      typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    rows.sort((a, b) => (descending ? compare(b[0], a[0]) : compare(a[0], b[0])));
    body.append(...rows.map((row) => row[1]));
  };
  head.tabIndex = 0;
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
}
"""

_DIGEST = base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_DIGEST}'"

HEAD = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>samepage report</title>
<style>{STYLE}</style>
</head>
<body>
<h1>samepage report</h1>
"""

END = f"<script>{SORT}</script>\n</body>\n</html>\n"


class Opens(NamedTuple):
    """A name that shows more when it is opened: `content` is HTML."""

    name: str
    content: str


def table(titles: Sequence[str], rows: Iterable[Sequence[str | Opens]]) -> str:
    """Return a table whose first column holds names, and whose other columns hold numbers."""
    heads = "".join(f"<th>{escape(title)}</th>" for title in titles[1:])
    body = "".join(
        f'<tr><td class="name">{_name_cell(row[0])}</td>'
        f"{''.join(f'<td>{escape(str(cell))}</td>' for cell in row[1:])}</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr><th class="name">{escape(titles[0])}</th>{heads}'
        f"</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _name_cell(name: str | Opens) -> str:
    if isinstance(name, str):
        return f'<span title="{escape(name)}">{escape(name)}</span>'
    return f"<details><summary>{escape(name.name)}</summary>{name.content}</details>"
