"""Mutates real libraries, and counts what comes of it.

    python -m fuzz.mutate [--exec] [--count 100000] [--seed 0]

Half of the mutations hit bytes where linkers look: the headers, the dynamic section, and
the tables that it leads to; the values are those at which bounds are off by one, or
anything. Each mutant is read completely and, every tenth, linked into a program. With
`--exec` programs are mutated, and each mutant is started on the model machine. Errors
that a user would see are fine. Anything else ends the run with the seed to repeat it, and
so does a mutant that takes more than `--seconds`.
"""

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from fuzz.targets import execute, link, read_everything
from samepage.abi.elf import SegmentType
from samepage.elf.dynamic import Tag
from samepage.elf.file import ElfFile
from samepage.elf.object import DynamicObject

LIBRARIES = (
    "/lib/x86_64-linux-gnu/libselinux.so.1",
    "/lib/x86_64-linux-gnu/libkeyutils.so.1",
    "/lib/x86_64-linux-gnu/libz.so.1",
    "/lib/x86_64-linux-gnu/libresolv.so.2",
    "/lib64/ld-linux-x86-64.so.2",
)
PROGRAMS = ("/bin/true", "/bin/echo", "/lib64/ld-linux-x86-64.so.2", "/sbin/ldconfig")
"""With an interpreter, one itself, and a static program."""
_INTERESTING = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63)


def hot_ranges(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of the parts of a file that linkers read."""
    elf = ElfFile(data, "seed")
    ranges = [(0, 64), (elf.phoff, elf.phoff + 56 * len(elf.segments))]
    if not any(segment.type == SegmentType.DYNAMIC for segment in elf.segments):
        return ranges
    dynamic = DynamicObject(elf).dynamic
    ranges.append((elf.file_offset("dynamic", dynamic.address)[0], 0))
    ranges[-1] = (ranges[-1][0], ranges[-1][0] + 16 * len(dynamic.entries))
    for tag in (
        Tag.GNU_HASH,
        Tag.HASH,
        Tag.SYMTAB,
        Tag.STRTAB,
        Tag.VERSYM,
        Tag.VERNEED,
        Tag.VERDEF,
        Tag.RELA,
        Tag.JMPREL,
        Tag.RELR,
    ):
        address = dynamic.get(tag)
        if address is not None:
            start, rest = elf.file_offset(tag.name, address)
            ranges.append((start, start + min(rest, 512)))
    return ranges


def mutate(data: bytes, ranges: list[tuple[int, int]], rng: random.Random) -> bytes:
    """A mutant of a file."""
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        start, end = rng.choice(ranges) if rng.random() < 0.9 else (0, len(mutant))
        at = rng.randrange(start, end)
        width = rng.choice((1, 2, 4, 8))
        if rng.random() < 0.5:
            value = rng.choice(_INTERESTING)
        elif rng.random() < 0.5:
            value = int.from_bytes(mutant[at : at + width], "little") + rng.choice((-1, 1, 8, 4096))
        else:
            value = rng.getrandbits(64)
        value &= (1 << 8 * width) - 1
        mutant[at : at + width] = value.to_bytes(width, "little")
    if rng.random() < 0.03:
        del mutant[rng.randrange(len(mutant)) :]
    return bytes(mutant)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10, help="longest time for a mutant")
    parser.add_argument("--exec", action="store_true", help="start programs on the model")
    options = parser.parse_args()
    paths = PROGRAMS if options.exec else LIBRARIES
    seeds = [Path(path).read_bytes() for path in paths if Path(path).exists()]
    files = [(data, hot_ranges(data)) for data in seeds]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    again = "python -m fuzz.mutate" + (" --exec" if options.exec else "")
    for number in range(options.seed, options.seed + options.count):
        rng = random.Random(number)
        data, ranges = files[number % len(files)]
        mutant = mutate(data, ranges, rng)
        started = time.process_time()
        try:
            if options.exec:
                outcomes["exec: " + execute(mutant)] += 1
            else:
                outcomes["read: " + read_everything(mutant)] += 1
            if number % 10 == 0 and not options.exec:
                outcomes["link: " + link(mutant)] += 1
        except Exception:
            traceback.print_exc()
            print(f"FOUND: {again} --seed {number} --count 1")
            return 1
        finally:
            slowest = max(slowest, time.process_time() - started)
        if slowest > options.seconds:
            print(f"TOO SLOW ({slowest:.1f} s): {again} --seed {number} --count 1")
            return 1
    print(f"{options.count} mutants of {len(files)} files, seeds from {options.seed}")
    for outcome, count in sorted(outcomes.items()):
        print(f"  {outcome:16} {count}")
    print(f"  slowest mutant   {slowest:.2f} s of CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
