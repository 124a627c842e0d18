"""A treemap: nested rectangles with areas in proportion to their values, as inline SVG.

Laid out by "squarified treemaps" (Bruls, Huizing, van Wijk, 2000): a row along the shorter side
takes rectangles as long as that makes the worst aspect ratio better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from samepage.report.sizes import printable

_HEADER = 16
_LETTER = 6.6
"""Width of a letter of the 11 px font, to cut names that do not fit."""


@dataclass(frozen=True, slots=True)
class Node:
    """A rectangle: `title` is shown in it, `detail` in its tooltip; `children` lie inside."""

    title: str
    detail: str
    value: int
    children: Sequence["Node"] = ()


@dataclass(frozen=True, slots=True)
class Box:
    """Where a rectangle lies, in pixels."""

    x: float
    y: float
    width: float
    height: float


def squarify(values: Sequence[int], box: Box) -> list[Box]:
    """The boxes of positive `values`, largest first, which together fill `box`."""
    boxes: list[Box] = []
    rest, start = box, 0
    while start < len(values):
        scale = rest.width * rest.height / sum(values[start:])
        side = min(rest.width, rest.height)
        end = start + 1
        while end < len(values) and _worst(values[start : end + 1], scale, side) <= _worst(
            values[start:end], scale, side
        ):
            end += 1
        row, rest = _row(values[start:end], scale, rest)
        boxes += row
        start = end
    return boxes


def _worst(row: Sequence[int], scale: float, side: float) -> float:
    """The worst ratio of the sides of a row's rectangles."""
    area = sum(row) * scale
    if not side or not area:
        return float("inf")
    return max(side**2 * row[0] * scale / area**2, area**2 / (side**2 * row[-1] * scale))


def _row(row: Sequence[int], scale: float, rest: Box) -> tuple[list[Box], Box]:
    """A row's boxes along the shorter side, and what is left of the space."""
    area = sum(row) * scale
    boxes, at = [], 0.0
    if rest.width >= rest.height:
        thick = area / rest.height if rest.height else 0.0
        for value in row:
            long = value * scale / thick if thick else 0.0
            boxes.append(Box(rest.x, rest.y + at, thick, long))
            at += long
        return boxes, Box(rest.x + thick, rest.y, rest.width - thick, rest.height)
    thick = area / rest.width if rest.width else 0.0
    for value in row:
        long = value * scale / thick if thick else 0.0
        boxes.append(Box(rest.x + at, rest.y, long, thick))
        at += long
    return boxes, Box(rest.x, rest.y + thick, rest.width, rest.height - thick)


def treemap(nodes: Sequence[Node], width: int = 1100, height: int = 520) -> str:
    """Two levels of nodes as one SVG element."""
    ordered = _largest_first(nodes)
    parts = [
        f'<svg class="treemap" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Copied pages by cause and function">'
    ]
    boxes = squarify([node.value for node in ordered], Box(0, 0, width, height))
    for number, (node, box) in enumerate(zip(ordered, boxes, strict=True)):
        parts.append(_rectangle(node, box, f"c{number % 8}"))
        inner = Box(
            box.x + 2, box.y + _HEADER, max(box.width - 4, 0), max(box.height - _HEADER - 2, 0)
        )
        children = _largest_first(node.children)
        if inner.width > 4 and inner.height > 4:
            places = squarify([child.value for child in children], inner)
            for child, place in zip(children, places, strict=True):
                parts.append(_rectangle(child, place, f"c{number % 8} leaf"))
    return "".join([*parts, "</svg>\n"])


def _largest_first(nodes: Sequence[Node]) -> list[Node]:
    return sorted((node for node in nodes if node.value > 0), key=lambda node: -node.value)


def _rectangle(node: Node, box: Box, kind: str) -> str:
    title = escape(printable(f"{node.title}: {node.detail}"))
    letters = int((box.width - 6) / _LETTER)
    text = ""
    if letters >= 3 and box.height >= _HEADER - 2:
        name = printable(node.title)
        name = name if len(name) <= letters else name[: letters - 1] + "…"
        text = f'<text x="{box.x + 3:.1f}" y="{box.y + 12:.1f}">{escape(name)}</text>'
    return (
        f'<g><title>{title}</title><rect class="{kind}" x="{box.x:.1f}" y="{box.y:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}"/>{text}</g>'
    )
