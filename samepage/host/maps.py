r"""/proc/PID/maps of many processes, parsed at once.

A line is `start-end perms offset dev inode name` (`show_map_vma` in fs/proc/task_mmu.c).
All of it but the addresses is the same text in every process that maps the same library,
so each distinct text is parsed once (`Mapping`), and a VMA is two addresses and the
number of its mapping. That makes the work per line two dictionary look-ups, and the file of a
mapping something that is looked at once for the whole system.

What a name may hide: the kernel writes a newline as `\012` and nothing else specially (a file
named `a\012b` with a real backslash looks the same); a deleted file's name ends with
` (deleted)`, as may the name of one that is not. `samepage.host.inodes` decides
both by looking at the file itself. Bytes that are not UTF-8 become lone surrogates (PEP
383), as elsewhere in Python.
"""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.host.procfs import Tally
from samepage.records import record

DELETED = " (deleted)"
MINOR_BITS = 20

_PERMS = frozenset(
    read + write + execute + kind
    for read in (b"r", b"-")
    for write in (b"w", b"-")
    for execute in (b"x", b"-")
    for kind in (b"p", b"s")
)
_WIDTH = 12
_HEAD = 2 * _WIDTH + 2
"""The length of two addresses of `_WIDTH` digits, with the dash and the space."""
_NO_RANGE = b"%0*x-%0*x " % (_WIDTH, 0, _WIDTH, 0)
_RANGE = rb"[0-9a-f]{12}-[0-9a-f]{12} "
_DIGITS = b"0123456789abcdef"

Addresses = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int32]


class Mapping(NamedTuple):
    """All of a line of maps but its addresses. `offset` is in bytes."""

    perms: str
    offset: int
    dev: int
    """As `st_dev` of the kernel: major << 20 | minor."""
    ino: int
    """0 if no file is mapped."""
    name: str


@record(eq=False)
class Vmas:
    """The VMAs of all processes, as columns.

    Invariants: sorted by (`process`, `start`); the VMAs of a process do not overlap;
    `mapping` numbers an entry of `mappings`.
    """

    process: Ids
    start: Addresses
    end: Addresses
    mapping: Ids
    mappings: list[Mapping]

    def __len__(self) -> int:
        return len(self.start)


_NO_VMAS = (
    np.zeros(0, dtype=np.int32),
    np.zeros(0, dtype=np.uint64),
    np.zeros(0, dtype=np.uint64),
    np.zeros(0, dtype=np.int32),
)


class MapsParser:
    """Turns the bytes of maps files into VMAs; remembers each mapping that it has seen."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.mappings: list[Mapping] = []
        self._known: dict[bytes, int] = {}
        self._parts: list[tuple[Ids, Addresses, Addresses, Ids]] = []
        self._malformed: set[int] = set()

    def add(self, processes: Sequence[tuple[int, bytes]]) -> None:
        """Take (number, maps) pairs, with ascending numbers, also from one call to the next."""
        if not processes:
            return
        texts = [
            data if data.endswith(b"\n") or not data else data + b"\n" for _, data in processes
        ]
        numbers = np.array([number for number, _ in processes], dtype=np.int32)
        process = np.repeat(numbers, [text.count(b"\n") for text in texts])
        lines = b"".join(texts).split(b"\n")
        lines.pop()
        start, end, rests = _split_addresses(lines)
        for rest in dict.fromkeys(rests):
            if rest not in self._known:
                self._learn(rest)
        mapping = np.array(list(map(self._known.__getitem__, rests)), dtype=np.int32)
        good = (mapping >= 0) & (start < end) & ((start | end) & np.uint64(4095) == 0)
        if len(good) > 1:
            good[1:] &= (process[1:] != process[:-1]) | (start[1:] >= end[:-1])
        part = (process, start, end, mapping)
        if not good.all():
            self._malformed.update(process[~good].tolist())
            good = _without_overlaps(*part)
            part = (process[good], start[good], end[good], mapping[good])
        self._parts.append(part)

    def vmas(self, dropped: Collection[int] = ()) -> Vmas:
        """Return all VMAs but those of the processes with these numbers.

        Lines that did not have the kernel's form, or that overlapped one before them, are left
        out, and their processes are counted in `tally.malformed`.
        """
        self.tally.malformed += len(self._malformed.difference(dropped))
        process, start, end, mapping = (
            np.concatenate(column) for column in zip(_NO_VMAS, *self._parts, strict=True)
        )
        if not dropped:
            return Vmas(process, start, end, mapping, self.mappings)
        kept = ~np.isin(process, list(dropped))
        return Vmas(process[kept], start[kept], end[kept], mapping[kept], self.mappings)

    def _learn(self, rest: bytes) -> None:
        """Remember the number of a mapping seen for the first time, -1 if it is none."""
        mapping = parse_mapping(rest)
        number = -1
        if mapping is not None:
            number = len(self.mappings)
            self.mappings.append(mapping)
        self._known[rest] = number


def parse_mapping(rest: bytes) -> Mapping | None:
    """Return the mapping of a line without its addresses, None if it is not a kernel's."""
    words = rest.split(b" ", 4)
    if len(words) < 4:
        return None
    perms, offset, device, ino = words[:4]
    major, _, minor = device.partition(b":")
    if (
        perms not in _PERMS
        or not (_is_hex(offset, 16) and _is_hex(major, 8) and _is_hex(minor, 8))
        or not (ino.isdigit() and len(ino) <= 20)
    ):
        return None
    return Mapping(
        perms.decode(),
        int(offset, 16),
        int(major, 16) << MINOR_BITS | int(minor, 16),
        int(ino),
        words[4].lstrip(b" ").decode("utf-8", "surrogateescape") if len(words) > 4 else "",
    )


def _is_hex(text: bytes, length: int) -> bool:
    # int() would take signs, prefixes and underscores too.
    return 0 < len(text) <= length and not text.strip(b"0123456789abcdef")


def _split_addresses(lines: list[bytes]) -> tuple[Addresses, Addresses, list[bytes]]:
    """Return start, end and the rest of each line; (0, 0) if it does not begin with a range.

    Nearly all addresses have 12 digits (0x7f... and 0x55...): those are decoded all at once.
    The rest is taken one by one.
    """
    rests = [line[_HEAD:] for line in lines]
    heads = [line[:_HEAD] for line in lines]
    others = _without_form(heads)
    digits = _digits(heads, others)
    if len(digits) < 2 * _WIDTH * len(lines) or digits.translate(None, _DIGITS):
        # No kernel wrote this.
        others = [row for row, head in enumerate(heads) if not re.fullmatch(_RANGE, head)]
        digits = _digits(heads, others)
    pairs = np.zeros((len(lines), 2, 8), dtype=np.uint8)
    pairs[:, :, 2:] = np.frombuffer(bytes.fromhex(digits.decode()), dtype=np.uint8).reshape(
        -1, 2, 6
    )
    addresses = pairs.view(">u8").reshape(-1, 2)
    start, end = addresses[:, 0].astype(np.uint64), addresses[:, 1].astype(np.uint64)
    for number in others:
        head, _, rests[number] = lines[number].partition(b" ")
        low, _, high = head.partition(b"-")
        good = _is_hex(low, 16) and _is_hex(high, 16)
        start[number], end[number] = (int(low, 16), int(high, 16)) if good else (0, 0)
    return start, end, rests


def _without_form(heads: list[bytes]) -> list[int]:
    """Return which do not have the dash and the space where they are with 12 digits."""
    joined = b"".join(heads)
    if len(joined) < len(heads) * _HEAD:
        return list(range(len(heads)))
    characters = np.frombuffer(joined, dtype=np.uint8).reshape(-1, _HEAD)
    there = (characters[:, _WIDTH] == ord("-")) & (characters[:, _HEAD - 1] == ord(" "))
    found: list[int] = np.flatnonzero(~there).tolist()
    return found


def _digits(heads: list[bytes], others: list[int]) -> bytes:
    """Return what is left of the heads without dash and space; zeros for the others."""
    heads = heads.copy()
    for row in others:
        heads[row] = _NO_RANGE
    return b"".join(heads).translate(None, b"- ")


def _without_overlaps(
    process: Ids, start: Addresses, end: Addresses, mapping: Ids
) -> npt.NDArray[np.bool_]:
    """Return which rows may stay: the slow way, for maps that no kernel wrote."""
    keep = np.zeros(len(start), dtype=bool)
    owner, last = -1, 0
    columns = (process.tolist(), start.tolist(), end.tolist(), mapping.tolist())
    for row, (number, low, high, known) in enumerate(zip(*columns, strict=True)):
        if number != owner:
            owner, last = number, 0
        if known >= 0 and last <= low < high and (low | high) & 4095 == 0:
            keep[row] = True
            last = high
    return keep
