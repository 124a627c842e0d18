"""The linker: against angr's cle, against glibc's ld.so, and against a plain NumPy add.

python -m benchmarks.linking

Two programs: gdb (59 objects, 150,000 relocations on Debian 12), and an empty program
that is linked with the library that has the most relocations of those in ld.so's cache.
All figures of one table come from alternating runs. Whole loads are timed: map plan,
search, binding and relocation of everything (LD_BIND_NOW=1), without running resolvers.

- cle loads the same program into its own memory, in an environment of its own. It runs
  once: a load takes many seconds.
- ld.so's figure is its own: the cycles of `LD_DEBUG=statistics`, from the program's start
  to its entry point, by the CPU's time stamp counter.
- The floor for relative relocations is `words[places] += base` over the same places.
"""

import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.timing import peer_environment
from samepage.elf.header import ElfError
from samepage.elf.object import DynamicObject
from samepage.linker.cache import LibraryCache
from samepage.linker.image import ImageMemory
from samepage.linker.inprocess.process import ProcessMemory
from samepage.linker.link import Linker
from samepage.linker.relocate import Relocated, relocate_relative
from samepage.linker.search import LinkerConfig
from samepage.records import replace

RUNS = 11
CLE = """
import json, logging, sys, time
logging.disable(logging.CRITICAL)
import cle
started, cpu = time.perf_counter(), time.process_time()
cle.Loader(sys.argv[1], auto_load_libs=True)
print(json.dumps([time.perf_counter() - started, time.process_time() - cpu]))
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One timed load by our linker: seconds, and of those of CPU."""

    wall: float
    cpu: float
    objects: int
    relocations: int


def largest_library() -> str:
    """The library of ld.so's cache with the most relocations."""
    with open("/etc/ld.so.cache", "rb") as file:
        cache = LibraryCache(file.read())
    best, most = "", 0
    for path in {entry.path for entry in cache.entries()}:
        try:
            count = DynamicObject.open(path).relocations.count
        except (OSError, ElfError):
            continue
        if count > most:
            best, most = path, count
    return best


def empty_program(library: str, directory: str) -> str:
    """A program that does nothing, linked with a library."""
    program = os.path.join(directory, "program")
    source = Path(directory) / "program.c"
    source.write_text("int main(void){return 0;}")
    command = ["gcc", str(source), "-o", program, "-Wl,--no-as-needed", library]
    subprocess.run([*command, "-Wl,--allow-shlib-undefined"], check=True)
    return program


def load(path: str) -> Load:
    """Link a program into a picture of memory, everything bound."""
    config = replace(LinkerConfig(), bind_now=True)
    gc.collect()  # the memory of the last load: freeing it is no part of this one
    wall, cpu = time.perf_counter(), time.process_time()
    linker = Linker(ImageMemory(), config)
    result = linker.link(path)
    return Load(
        time.perf_counter() - wall,
        time.process_time() - cpu,
        len(result.maps),
        sum(link.object.relocations.count for link in result.maps),
    )


def ldso_seconds(path: str, cycles_per_second: float) -> float:
    """ld.so's own startup time for a program, which is then run with --version."""
    environment = {**os.environ, "LD_DEBUG": "statistics", "LD_BIND_NOW": "1"}
    output = subprocess.run(
        [path, "--version"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    ).stderr.decode(errors="replace")
    match = re.search(r"total startup time in dynamic loader: (\d+) cycles", output)
    if match is None:
        raise RuntimeError(f"{path}: no statistics in the output of LD_DEBUG=statistics")
    return int(match[1]) / cycles_per_second


def tsc_frequency() -> float:
    """Cycles per second of the time stamp counter, as the kernel found at boot."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("bogomips"):
            return float(line.partition(":")[2]) * 1e6 / 2
    raise RuntimeError("no bogomips in /proc/cpuinfo")


def against_ldso(console: Console, programs: dict[str, str]) -> None:
    """Whole loads, alternating with ld.so's; of each the least disturbed run counts."""
    frequency = tsc_frequency()
    table = Table(
        "program",
        "objects",
        "relocations",
        "samepage ms",
        "(CPU ms)",
        "ld.so ms",
        "CPU / ld.so",
        title="Whole load, everything bound, against ld.so (LD_DEBUG=statistics)",
    )
    for name, path in programs.items():
        load(path), ldso_seconds(path, frequency)
        pairs = [(load(path), ldso_seconds(path, frequency)) for _ in range(RUNS)]
        cpu, theirs = min(ours.cpu for ours, _ in pairs), min(time for _, time in pairs)
        table.add_row(
            name,
            str(pairs[0][0].objects),
            f"{pairs[0][0].relocations:,}",
            f"{min(ours.wall for ours, _ in pairs) * 1e3:.1f}",
            f"{cpu * 1e3:.1f}",
            f"{theirs * 1e3:.1f}",
            f"{cpu / theirs:.1f}",
        )
    console.print(table)


def against_cle(console: Console, programs: dict[str, str]) -> None:
    """Whole loads, ours five times and cle's once.

    The ratio is that of CPU time: on a shared machine a load of many seconds waits for
    the CPU more often than one of a tenth.
    """
    python = peer_environment("cle", "cle==9.2.213", "bitstring<4.3")
    table = Table(
        "program",
        "samepage s",
        "cle s",
        "samepage CPU s",
        "cle CPU s",
        "ratio of CPU",
        title="Whole load, against cle 9.2.213",
    )
    for name, path in programs.items():
        output = subprocess.run(
            [str(python), "-c", CLE, path], capture_output=True, text=True, check=False
        )
        ours = [load(path) for _ in range(5)]
        wall = statistics.median(run.wall for run in ours)
        cpu = statistics.median(run.cpu for run in ours)
        if output.returncode:
            reason = (output.stderr.strip().splitlines() or ["killed"])[-1]
            table.add_row(name, f"{wall:.3f}", reason[:40], f"{cpu:.3f}", "", "")
            continue
        their_wall, their_cpu = json.loads(output.stdout.strip().splitlines()[-1])
        table.add_row(
            name,
            f"{wall:.3f}",
            f"{their_wall:.1f}",
            f"{cpu:.3f}",
            f"{their_cpu:.1f}",
            f"{their_cpu / cpu:.0f}",
        )
    console.print(table)


def against_numpy(console: Console, library: str) -> None:
    """Relative relocations in real memory, against an add over the same words.

    The library's pages are touched beforehand, so that neither side pays for faults.
    """
    from samepage.linker.maps import LinkMap, MapKind
    from samepage.linker.segments import map_segments

    memory = ProcessMemory()
    file = memory.open(library)
    link = LinkMap(library, file.object, MapKind.LOADED, file.identity)
    map_segments(memory, file, link)
    memory.close(file)
    tables = file.object.relocations
    count = tables.relative_count
    places = tables.rela["r_offset"][:count].astype(np.int64)
    low = int(places.min()) & -8
    span = (int(places.max()) - low) // 8 + 1
    words = np.zeros(span, np.uint64)
    index = (places - low) >> 3
    base = np.uint64(link.base)
    relocate_relative(memory, link, Relocated())
    words[index] += base
    pairs = []
    for _ in range(RUNS):
        started = time.perf_counter()
        relocate_relative(memory, link, Relocated())
        between = time.perf_counter()
        words[index] += base
        pairs.append((between - started, time.perf_counter() - between))
    memory.munmap(link.start, link.end - link.start)
    console.print(
        f"{count:,} relative relocations of {os.path.basename(library)}: "
        f"{min(a for a, _ in pairs) * 1e3:.2f} ms, NumPy add over the same words "
        f"{min(b for _, b in pairs) * 1e3:.2f} ms, "
        f"ratio {statistics.median(a / b for a, b in pairs):.2f}"
    )


def main() -> None:
    """Run all, and print the ratios."""
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as directory:
        library = largest_library()
        programs = {"gdb": "/usr/bin/gdb"} if os.path.exists("/usr/bin/gdb") else {}
        programs[f"empty, with {os.path.basename(library)}"] = empty_program(library, directory)
        against_numpy(console, library)
        against_ldso(console, programs)
        against_cle(console, programs)


if __name__ == "__main__":
    sys.exit(main())
