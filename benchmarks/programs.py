"""Running programs: against Qiling, against bare Unicorn, and many at once.

python -m benchmarks.programs
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.timing import SAMEPAGE, compare, peer_environment, time_command

QILING = """
import sys
from qiling import Qiling
from qiling.const import QL_VERBOSE
Qiling(sys.argv[1:], "/", verbose=QL_VERBOSE.OFF).run()
"""
PROGRAMS = (
    ["/usr/bin/true"],
    ["/usr/bin/uname", "-a"],
    ["/usr/bin/ls", "/"],
    ["/usr/bin/git", "--version"],
    ["/usr/bin/sha256sum", "/usr/bin/git"],
)
INSTANCES = 200


def against_qiling(console: Console) -> None:
    """Whole-process wall time, samepage against Qiling 1.4.6 in an environment of its own."""
    python = peer_environment("qiling", "qiling==1.4.6")
    table = Table("program", "samepage s", "Qiling s", "ratio", title="Against Qiling 1.4.6")
    for argv in PROGRAMS:
        ours, peer, ratio = compare(
            # Qiling's programs start with no environment: with one that names a locale
            # it cannot run most of these.
            [*SAMEPAGE, "run", "--quiet", "--clear-env", *argv],
            [str(python), "-c", QILING, *argv],
        )
        table.add_row(" ".join(argv), f"{ours:.3f}", f"{peer:.3f}", f"{ratio:.2f}")
    console.print(table)


def against_bare_unicorn(console: Console) -> None:
    """`sha256sum` of 10 MB: what the kernel and its MMU add to the CPU emulation."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(10_000_000))
        file.flush()
        argv = ["/usr/bin/sha256sum", file.name]
        ours, peer, ratio = compare(
            [*SAMEPAGE, "run", "--quiet", *argv],
            [sys.executable, "-m", "benchmarks.bare_unicorn", *argv],
        )
    console.print(
        f"sha256sum of 10 MB: samepage {ours:.3f} s, bare Unicorn {peer:.3f} s, ratio {ratio:.2f}"
    )


def start_up(console: Console) -> None:
    """CPU time of `samepage --help` (limit: 150 ms)."""
    time_command([*SAMEPAGE, "--help"])
    cpu = statistics.median(time_command([*SAMEPAGE, "--help"])[1] for _ in range(7))
    console.print(f"samepage --help: {cpu * 1000:.0f} ms of CPU time")


def many_instances(console: Console) -> None:
    """200 instances of /bin/true frozen together: host memory, and time for each."""
    from samepage import Machine

    machine = Machine()
    seconds = []
    for _ in range(INSTANCES):
        started = time.perf_counter()
        machine.run(machine.spawn(["/bin/true"]))
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    early, late = statistics.median(seconds[1:12]), statistics.median(seconds[-11:])
    console.print(
        f"{INSTANCES} instances of /bin/true: {peak:.0f} MB of host memory in all; "
        f"{early * 1000:.1f} ms each for the 2nd to 12th, {late * 1000:.1f} ms for the last "
        f"11, ratio {late / early:.2f}"
    )


def main() -> None:
    """Run all of them."""
    console = Console()
    many_instances(console)
    start_up(console)
    against_bare_unicorn(console)
    against_qiling(console)


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    main()
