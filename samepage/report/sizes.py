"""Numbers and names as people read them: IEC units, and nothing that moves the cursor."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsFloat

_PAGE_SIZE = 4096
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size(pages: SupportsFloat) -> str:
    """Return so many pages in IEC units: three or four digits, "0" for none and nothing else.

    >>> from fractions import Fraction
    >>> size(3), size(Fraction(1, 3)), size(-1000), size(Fraction(-1, 100))
    ('12 KiB', '1.3 KiB', '-3.9 MiB', '-41 B')
    """
    value = float(pages) * _PAGE_SIZE / 1024
    if not value:
        return "0"
    if abs(value) < 0.05:
        return f"{value * 1024:.2g} B"
    unit = 0
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    exact = abs(value) >= 99.95 or value == int(value)
    return f"{value:.0f} {_UNITS[unit]}" if exact else f"{value:.1f} {_UNITS[unit]}"


def size_if(known: object, pages: SupportsFloat) -> str:
    """Return so many pages as `size` does, or "?" where the number is not known."""
    return size(pages) if known else "?"


def growth(pages: SupportsFloat) -> str:
    """Return a difference in pages with its sign, or "" for none."""
    value = float(pages)
    return ("+" if value > 0 else "") + size(value) if value else ""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 page", "1,234 pages"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(part: int | float, whole: int | float) -> str:
    """Return a share in whole percent: "<1 %" for little, "0 %" of nothing."""
    if not whole or not part:
        return "0 %"
    share = 100 * part / whole
    return "<1 %" if 0 < share < 1 else f"{share:.0f} %"


def printable(name: str) -> str:
    r"""Return a name with what is not printable as escapes: file names may hold anything.

    A byte that is no UTF-8, a lone surrogate here (PEP 383), is shown as the byte.

    >>> printable("a\n\x1b[2J\udcff")
    'a\\n\\x1b[2J\\xff'
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else _escaped(c) for c in name)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
