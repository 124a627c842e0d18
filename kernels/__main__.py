"""`python -m kernels`: run the project's commands and tests on other kernels.

python -m kernels live --kernel 6.1 --kernel 6.12      counts of `samepage live` against smaps
python -m kernels live --architecture arm64
python -m kernels verify --kernel 6.1 --kernel 6.12    the model against them, by a fixed list
python -m kernels run --kernel 6.12 -- .venv/bin/samepage live
"""

import argparse
import shlex
import sys

from kernels.boot import Machine, kernel_of, root_for
from samepage.errors import SamepageError

LIVE = """
.venv/bin/python -m kernels.all_processes; all=$?
.venv/bin/python -m pytest -n 0 -p no:cacheprovider --timeout 900 -q \\
    tests/live/test_accounting.py tests/live/test_ksm.py tests/live/test_kpage.py \\
    tests/live/test_pagemap.py tests/live/test_sums.py tests/live/test_cgroups.py \\
    tests/analysis/test_forks.py; tests=$?
test $all = 0 -a $tests = 0
"""
COMMANDS_ELSEWHERE = """
.venv/bin/samepage live > /tmp/live.txt && head -3 /tmp/live.txt || exit 1
for command in demo "verify true" "run true"; do
    .venv/bin/samepage $command > /tmp/message.txt 2>&1; status=$?
    cat /tmp/message.txt
    test $status != 0 -a $(wc -l < /tmp/message.txt) = 1 || { echo "$command: $status"; exit 1; }
    ! grep -q "internal error" /tmp/message.txt || exit 1
done
"""
"""What needs the model fails with one line where the processor is another one."""
VERIFY = ".venv/bin/samepage verify --corpus kernels/groups.txt --timeout 600 --attempts 2 --jobs 2"


def main() -> int:
    """Run what the command line asks for; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    run = commands.add_parser("run", help="boot one kernel and run one command")
    run.add_argument("--kernel", default="6.12", help="version, as Debian offers it")
    run.add_argument("--architecture", default="amd64", choices=("amd64", "arm64"))
    run.add_argument("--cpu", help="what QEMU takes for -cpu")
    run.add_argument("--cpus", type=int, default=2)
    run.add_argument("--memory", type=int, default=3072, help="MiB")
    run.add_argument("--timeout", type=float, default=1800, help="seconds")
    run.add_argument("--parameters", default="", help="more words for the kernel's command line")
    run.add_argument("words", nargs="+", metavar="COMMAND")
    for name, text in (
        ("live", "compare what samepage counts with smaps"),
        ("verify", "compare the model with the kernel, group by group of kernels/groups.txt"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--kernel", action="append", help="version; may be repeated")
        command.add_argument("--timeout", type=float, default=7200, help="seconds, for each")
        command.add_argument("--architecture", default="amd64", choices=("amd64", "arm64"))
    options = parser.parse_args()
    try:
        return _run(options) if options.name == "run" else _on_each(options)
    except SamepageError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    machine = Machine(
        kernel_of(options.kernel, options.architecture),
        root_for(options.architecture),
        cpus=options.cpus,
        memory=options.memory,
        cpu=options.cpu,
        parameters=options.parameters,
    )
    words = options.words
    command = words[0] if len(words) == 1 else shlex.join(words)
    result = machine.run(command, options.timeout)
    print(result.output, end="")
    return 2 if result.status is None else result.status


def _on_each(options: argparse.Namespace) -> int:
    """Run the fixed commands on each kernel; 1 if they fail on one."""
    root = root_for(options.architecture)
    failed = []
    for version in options.kernel or ["6.1", "6.12"]:
        kernel = kernel_of(version, options.architecture)
        command = VERIFY if options.name == "verify" else LIVE
        if options.name == "live" and options.architecture != "amd64":
            command = f"({COMMANDS_ELSEWHERE})\ncommands=$?\n{LIVE.rstrip()} -a $commands = 0"
        result = Machine(kernel, root).run(command, options.timeout)
        print(f"== {kernel.package}\n{result.output}", flush=True)
        if result.status != 0:
            failed.append(kernel.package)
    for package in failed:
        print(f"kernels: {options.name} failed on {package}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
