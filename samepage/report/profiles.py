"""Copied pages in the forms that profilers' viewers read: collapsed stacks, speedscope, pprof.

A "sample" is a copied page; the stack goes from the cause to the function and the memory.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from typing import BinaryIO, TextIO

from samepage.analysis.write_stacks import Stack
from samepage.report.sizes import printable
from samepage.snapshot.columns import PAGE_SIZE

Stacks = Sequence[tuple[Stack, int]]


def write_collapsed(stacks: Stacks, stream: TextIO) -> None:
    """One line for each stack, `A;B;C PAGES`, as flamegraph.pl and inferno read them."""
    for stack, pages in stacks:
        names = (printable(name).replace(";", ",") for name in stack)
        stream.write(f"{';'.join(names)} {pages}\n")


def write_speedscope(stacks: Stacks, stream: TextIO) -> None:
    """A sampled profile in speedscope's file format
    (https://www.speedscope.app/file-format-schema.json)."""
    frames: dict[str, int] = {}
    samples = [[frames.setdefault(name, len(frames)) for name in stack] for stack, _ in stacks]
    weights = [pages * PAGE_SIZE for _, pages in stacks]
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": "samepage",
        "name": "samepage why: copied memory",
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": [
            {
                "type": "sampled",
                "name": "copied memory",
                "unit": "bytes",
                "startValue": 0,
                "endValue": sum(weights),
                "samples": samples,
                "weights": weights,
            }
        ],
    }
    json.dump(document, stream)
    stream.write("\n")


def write_pprof(stacks: Stacks, stream: BinaryIO) -> None:
    """A gzipped `perftools.profiles.Profile` (google/pprof, proto/profile.proto), of which only
    what a stack needs is filled in: values are pages and bytes."""
    strings: dict[str, int] = {"": 0}

    def text(value: str) -> int:
        return strings.setdefault(value, len(strings))

    parts = [
        _message(1, _int(1, text("copied_pages")) + _int(2, text("count"))),
        _message(1, _int(1, text("copied_space")) + _int(2, text("bytes"))),
    ]
    numbers: dict[str, int] = {}
    for stack, pages in stacks:
        # The leaf is first.
        places = [numbers.setdefault(name, len(numbers) + 1) for name in reversed(stack)]
        parts.append(_message(2, _packed(1, places) + _packed(2, [pages, pages * PAGE_SIZE])))
    for name, number in numbers.items():
        parts.append(_message(4, _int(1, number) + _message(4, _int(1, number))))
        parts.append(_message(5, _int(1, number) + _int(2, text(name)) + _int(3, text(name))))
    parts += (_message(6, value.encode("utf-8", "replace")) for value in strings)
    stream.write(gzip.compress(b"".join(parts), mtime=0))


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _int(number: int, value: int) -> bytes:
    """A field of protobuf's wire type 0."""
    return _varint(number << 3) + _varint(value)


def _message(number: int, body: bytes) -> bytes:
    """A field of wire type 2: a message, a string or packed numbers."""
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _packed(number: int, values: Iterable[int]) -> bytes:
    return _message(number, b"".join(map(_varint, values)))
