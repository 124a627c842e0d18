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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from samepage.host.procfs import Tally

_LINE = re.compile(rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) (.*)$", re.MULTILINE)
_REST = re.compile(
    rb"([r-][w-][x-][ps]) ([0-9a-f]{1,16}) ([0-9a-f]{1,8}):([0-9a-f]{1,8}) ([0-9]{1,20})(?: +(.*))?"
)
DELETED = " (deleted)"
MINOR_BITS = 20

Addresses = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Mapping:
    """All of a line of maps but its addresses. `offset` is in bytes."""

    perms: str
    offset: int
    dev: int
    """As `st_dev` of the kernel: major << 20 | minor."""
    ino: int
    """0 if no file is mapped."""
    name: str


@dataclass(slots=True)
class Vmas:
    """The VMAs of all processes, as columns.

    Invariants: sorted by (`process`, `start`); the VMAs of a process do not overlap;
    `mapping` numbers an entry of `mappings`; `mappings` has no two equal entries.
    """

    process: Ids
    start: Addresses
    end: Addresses
    mapping: Ids
    mappings: list[Mapping]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(slots=True)
class MapsParser:
    """Turns the bytes of maps files into VMAs; remembers each mapping that it has seen."""

    tally: Tally
    mappings: list[Mapping] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)
    _ids: dict[Mapping, int] = field(default_factory=dict)

    def parse(self, processes: Sequence[tuple[int, bytes]]) -> Vmas:
        """Return the VMAs of (number, maps) pairs, with ascending numbers.

        Lines that do not have the kernel's form, or that overlap one before them, are left
        out, and their process is counted in `tally.malformed`.
        """
        lows: list[bytes] = []
        highs: list[bytes] = []
        ids: list[int] = []
        numbers: list[int] = []
        counts: list[int] = []
        for number, data in processes:
            lines = _LINE.findall(data)
            before = len(ids)
            for low, high, rest in lines:
                known = self._known.get(rest)
                if known is None:
                    known = self._learn(rest)
                if known >= 0:
                    lows.append(low)
                    highs.append(high)
                    ids.append(known)
            numbers.append(number)
            counts.append(len(ids) - before)
            if counts[-1] != data.count(b"\n"):
                self.tally.malformed += 1
        return self._columns(
            np.repeat(np.array(numbers, dtype=np.int32), counts),
            np.array([int(text, 16) for text in lows], dtype=np.uint64),
            np.array([int(text, 16) for text in highs], dtype=np.uint64),
            np.array(ids, dtype=np.int32),
        )

    def _learn(self, rest: bytes) -> int:
        match = _REST.fullmatch(rest)
        number = -1
        if match is not None:
            perms, offset, major, minor, ino, name = match.groups()
            mapping = Mapping(
                perms.decode(),
                int(offset, 16),
                int(major, 16) << MINOR_BITS | int(minor, 16),
                int(ino),
                (name or b"").decode("utf-8", "surrogateescape"),
            )
            number = self._ids.setdefault(mapping, len(self.mappings))
            if number == len(self.mappings):
                self.mappings.append(mapping)
        self._known[rest] = number
        return number

    def _columns(self, process: Ids, start: Addresses, end: Addresses, ids: Ids) -> Vmas:
        bad = (start >= end) | ((start | end) & np.uint64(4095) != 0)
        if len(start) > 1:
            same = process[1:] == process[:-1]
            bad[1:] |= same & (start[1:] < end[:-1])
        if bad.any():
            keep = self._sound(process, start, end, bad)
            process, start, end, ids = process[keep], start[keep], end[keep], ids[keep]
        return Vmas(process, start, end, ids, self.mappings)

    def _sound(
        self, process: Ids, start: Addresses, end: Addresses, bad: npt.NDArray[Any]
    ) -> npt.NDArray[np.bool_]:
        """Return which rows may stay: the rare way, one by one, for processes with bad rows."""
        self.tally.malformed += len(np.unique(process[bad]))
        keep = np.ones(len(start), dtype=bool)
        for number in np.unique(process[bad]):
            last = 0
            for row in np.flatnonzero(process == number):
                low, high = int(start[row]), int(end[row])
                if low >= high or (low | high) & 4095 or low < last:
                    keep[row] = False
                else:
                    last = high
        return keep
