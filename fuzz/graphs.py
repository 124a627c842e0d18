"""Random graphs of libraries: the order of constructors and destructors is that of ld.so.

    python -m fuzz.graphs [--count 200] [--seed 0]

Each graph has up to nine libraries whose constructor and destructor write their letter. They need
each other at random, cycles included; some have the DT_SONAME of another one, some are reached
by a second name (a symbolic link), some are copies, and some have DF_1_INITFIRST. Of each graph

- a program that needs some of them is run natively, and started by our linker on the model;
- a sequence of `dlopen` and `dlclose` is executed by glibc, and by `samepage.linker.dlopen`, each
  in a process of its own.

What both write must be the same. The first graph that differs is kept and named, with its seed.
Libraries are linked from objects that are compiled once: a graph takes a fraction of a second.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from samepage import Machine

COUNT = 9
_LETTERS = "abcdefghi"

_LIBRARY = """
static void put(const char *s) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(1L), "D"(1L), "S"(s), "d"(2L) : "rcx", "r11");
}
__attribute__((constructor)) static void in(void) { put("+" LETTER); }
__attribute__((destructor)) static void out(void) { put("-" LETTER); }
"""

_CLIENT = """
import ctypes, _ctypes, os, sys
where, who, *steps = sys.argv[1:]
if who == "ld.so":
    def opened(path):
        return ctypes.CDLL(path)
    def close(library):
        _ctypes.dlclose(library._handle)
else:
    from samepage.linker import dlopen
    def opened(path):
        library = dlopen(path)
        library.initialize()
        return library
    def close(library):
        library.close()
held = []
for step in steps:
    os.write(1, b" " + step.encode() + b":")
    if step.startswith("open "):
        held.append(opened(os.path.join(where, step[5:])))
    else:
        close(held.pop(int(step[6:])))
os._exit(0)  # what is still open is no part of the sequence
"""


@dataclass
class Graph:
    """What is built: by library its DT_NEEDED names, soname and flags; then what is done."""

    needs: list[list[str]]
    sonames: list[str]
    first: list[bool]
    links: dict[str, str] = field(default_factory=dict)
    """Other names of files: symbolic links."""
    copies: dict[str, str] = field(default_factory=dict)
    program: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


def make_graph(seed: int) -> Graph:
    """The graph of a seed."""
    rng = random.Random(seed)
    count = rng.randint(3, COUNT)
    files = [f"libn{number}.so" for number in range(count)]
    sonames = list(files)
    graph = Graph([], sonames, [rng.random() < 0.1 for _ in files])
    for number in range(count):
        if rng.random() < 0.15:
            sonames[number] = rng.choice(files)
        if rng.random() < 0.15:
            graph.links[f"liblink{number}.so"] = files[number]
        if rng.random() < 0.1:
            graph.copies[f"libcopy{number}.so"] = files[number]
    names = [*files, *graph.links, *graph.copies]
    density = rng.choice((0.15, 0.25, 0.4))
    for _ in files:
        chosen = [name for name in names if rng.random() < density]
        rng.shuffle(chosen)
        graph.needs.append(chosen)
    graph.program = rng.sample(names, rng.randint(1, min(4, len(names))))
    held = 0
    for _ in range(rng.randint(4, 12)):
        if held and rng.random() < 0.45:
            graph.steps.append(f"close {rng.randrange(held)}")
            held -= 1
        else:
            graph.steps.append(f"open {rng.choice(names)}")
            held += 1
    while held:
        graph.steps.append(f"close {rng.randrange(held)}")
        held -= 1
    return graph


class Bench:
    """A directory with what all graphs are built from."""

    def __init__(self, directory: Path) -> None:
        """Compile the objects, and an empty library for each name that can be needed."""
        self.directory = directory
        for letter in _LETTERS:
            source = directory / f"{letter}.c"
            source.write_text(_LIBRARY)
            define = f'-DLETTER="{letter}"'
            _run("gcc", "-O1", "-fPIC", define, "-c", source, "-o", directory / f"{letter}.o")
        source = directory / "program.c"
        source.write_text("int main(void) { return 0; }")
        _run("gcc", "-O1", "-c", source, "-o", directory / "program.o")
        (directory / "empty.c").write_text("")
        _run("gcc", "-c", directory / "empty.c", "-o", directory / "empty.o")
        for kind in ("libn", "liblink", "libcopy"):
            for number in range(COUNT):
                name = f"{kind}{number}.so"
                _run(
                    "ld", "-shared", "-soname", name, "-o", directory / name, directory / "empty.o"
                )

    def build(self, graph: Graph, where: Path) -> Path:
        """Build a graph's libraries and its program in a directory; return the program."""
        where.mkdir()
        common = ["--no-as-needed", "--allow-shlib-undefined", "-rpath", "$ORIGIN"]
        for number, needs in enumerate(graph.needs):
            words = ["ld", "-shared", *common, "-soname", graph.sonames[number]]
            words += ["-z", "initfirst"] * graph.first[number]
            words += [str(self.directory / f"{_LETTERS[number]}.o")]
            words += [str(self.directory / name) for name in needs]
            _run(*words, "-o", where / f"libn{number}.so")
        for name, target in graph.links.items():
            (where / name).symlink_to(target)
        for name, target in graph.copies.items():
            shutil.copy(where / target, where / name)
        options = [f"-Wl,{word}" for word in ("--no-as-needed", "--allow-shlib-undefined")]
        libraries = [self.directory / name for name in graph.program]
        program = where / "program"
        _run(
            "gcc",
            self.directory / "program.o",
            *options,
            "-Wl,-rpath,$ORIGIN",
            *libraries,
            "-o",
            program,
        )
        return program


def _run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, timeout=60)


def start(program: Path) -> tuple[bytes, bytes]:
    """What a program writes that ld.so starts, and that our linker starts on the model."""
    theirs = subprocess.run([program], capture_output=True, check=True, timeout=60).stdout
    machine = Machine("256M", timeout=60)
    guest = machine.spawn([str(program)], env={}, loader="builtin")
    machine.run(guest)
    return theirs, guest.stdout


def open_and_close(where: Path, steps: list[str]) -> tuple[bytes, bytes]:
    """What a sequence of dlopen and dlclose writes, by glibc and by us."""
    root = Path(__file__).parents[1]
    results = []
    for who in ("ld.so", "samepage"):
        command = [sys.executable, "-c", _CLIENT, str(where), who, *steps]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False, cwd=root)
        results.append(done.stdout + done.stderr[-500:])
    return results[0], results[1]


def differences(bench: Bench, seed: int, where: Path) -> list[str]:
    """What differs for the graph of a seed: a line for each of the two runs."""
    graph = make_graph(seed)
    program = bench.build(graph, where)
    found = []
    for what, (theirs, ours) in (
        ("program", start(program)),
        ("dlopen", open_and_close(where, graph.steps)),
    ):
        if theirs != ours:
            found.append(f"{what}:\n  ld.so    {theirs.decode()}\n  samepage {ours.decode()}")
    return found


def main() -> int:
    """Compare many graphs; the exit status is 1 if any differs."""
    parser = argparse.ArgumentParser(description="Random graphs of libraries against ld.so.")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="samepage-graphs-"))
    bench = Bench(root)
    bad = 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        where = root / f"graph{seed}"
        for line in differences(bench, seed, where):
            bad += 1
            print(f"seed {seed}, {where}: {line}", flush=True)
            break
        else:
            shutil.rmtree(where)
    print(f"{arguments.count} graphs, {bad} of them differ")
    if not bad:
        shutil.rmtree(root)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
