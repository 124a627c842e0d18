"""Sizes for people."""

from fractions import Fraction

import pytest

from samepage.report.sizes import count, growth, percent, printable, size


@pytest.mark.parametrize(
    ("pages", "text"),
    [
        (0, "0"),
        (1, "4 KiB"),
        (Fraction(1, 3), "1.3 KiB"),
        (Fraction(-1, 100), "-41 B"),
        (Fraction(1, 10000), "0.41 B"),
        (-1000, "-3.9 MiB"),
        (249, "996 KiB"),
        (250, "1.0 MiB"),
        (256, "1 MiB"),
        (262144, "1 GiB"),
        (300 * 262144, "300 GiB"),
        (2**60, "4194304 PiB"),
    ],
)
def test_size_in_iec_units(pages: int | Fraction, text: str) -> None:
    assert size(pages) == text


def test_growth_has_a_sign() -> None:
    assert [growth(pages) for pages in (3, -3, 0)] == ["+12 KiB", "-12 KiB", ""]


def test_counts_and_shares() -> None:
    assert count(1, "page") == "1 page"
    assert count(1234, "process", "processes") == "1,234 processes"
    assert [percent(*pair) for pair in ((1, 3), (1, 1000), (0, 5), (0, 0))] == [
        "33 %", "<1 %", "0 %", "0 %"
    ]  # fmt: skip


def test_what_is_not_printable_is_escaped() -> None:
    assert printable("a\tb\x1b\u200b\udc80\ud800") == r"a\tb\x1b\u200b\x80\ud800"
    assert printable("größe") == "größe"
