"""Random sequences of operations, and the comparison of the two sides."""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kernel.mm.live_model import MNEMONICS, Model
from tests.kernel.mm.mm_helpers import numbered

PAGE = 4096
PAGES = 96
ARENA = 0x10_0020_0000 - 40 * PAGE
"""Two last-level tables serve it."""
FILE_PAGES = 40

PROTS = [0, 1, 3, 3, 3, 2, 5, 7]
MADV_REMOVE = 9
PRIVATE, SHARED, FIXED, ANONYMOUS = 2, 1, 0x10, 0x20


def random_operation(rng: random.Random, forks: bool) -> list:
    """One operation on a random part of the arena."""

    def span(longest=24):
        length = rng.choice([1, 1, 2, 3, 4, 8, 16, longest])
        first = rng.randrange(PAGES - length)
        return ARENA + first * PAGE, length * PAGE

    kind = rng.choices(
        ["touch", "mmap", "munmap", "mprotect", "mremap", "madvise", "mlock", "other", "fork"],
        [40, 16, 5, 14, 9, 9, 3, 2, 6 if forks else 0],
    )[0]
    address, length = span()
    if kind == "touch":
        return ["touch", address, rng.randrange(2)]
    if kind == "mmap":
        fd = rng.choice([None, None, None, "a", "a", "b", "ro", "mem", "zero"])
        sharing = rng.choice([PRIVATE, PRIVATE, PRIVATE, SHARED])
        flags = sharing | FIXED | (0 if fd else ANONYMOUS)
        for extra, chance in (
            (0x8000, 8),
            (0x4000, 12),
            (0x2000, 20),
            (0x20000, 15),
            (0x100000, 15),
            (0x100, 40),
        ):
            if not rng.randrange(chance):
                flags |= extra
        offset = rng.randrange(FILE_PAGES) * PAGE if fd else 0
        if fd and rng.randrange(2):
            offset = (address - ARENA) % (FILE_PAGES * PAGE)
        return ["mmap", address, length, rng.choice(PROTS), flags, fd, offset]
    if kind == "munmap":
        return ["munmap", address, length]
    if kind == "mprotect":
        return ["mprotect", address, length, rng.choice(PROTS)]
    if kind == "mremap":
        target, new = span()
        flags = rng.choice([0, 0, 3, 3, 3, 7])
        if rng.randrange(3) == 0 or flags == 7:
            new = length
        if flags and target + new > ARENA + PAGES * PAGE:
            new = PAGE
        return ["mremap", address, length, new, flags, target]
    if kind == "madvise":
        advice = rng.choice([0, 1, 2, 4, 4, 4, 8, 8, 9, 10, 11, 16, 17, 18, 19, 20, 22, 23, 24, 15])
        return ["madvise", address, length, advice]
    if kind == "mlock":
        if rng.randrange(2):
            return ["munlock", address, length]
        return ["mlock2", address, length, rng.randrange(2)]
    if kind == "other":
        if rng.randrange(3) == 0:
            return ["truncate", rng.choice(["a", "mem"]), rng.randrange(40 * PAGE)]
        if rng.randrange(2):
            return ["mincore", address, length]
        return ["msync", address, length, rng.choice([1, 2, 3, 5])]
    return [rng.choice(["fork", "fork", "reap", "reap", "descend"])]


def sequence(seed: int, count: int, forks: bool = True) -> list[list]:
    """A reproducible list of operations."""
    rng = random.Random(seed)
    operations = [random_operation(rng, forks) for _ in range(count)]
    # Cutting a disk's file inside of a hole leaves a page in the cache that is not up to
    # date (ext4): a matter of the file system. So a sequence either cuts or punches.
    without = ["truncate", "a"] if seed % 2 else ["madvise", MADV_REMOVE]
    return [op for op in operations if without[1] not in op[1:] or op[0] != without[0]]


def run_live(operations: list[list], file_size: int = 0) -> list:
    """What the live kernel does; the file has `file_size` bytes if that is more."""
    agent = Path(__file__).with_name("live_agent.py")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "file")
        data = numbered(FILE_PAGES)
        fd = os.open(path, os.O_CREAT | os.O_RDWR)
        # Page by page: a large write would make large folios, which are dirty as a whole.
        for start in range(0, len(data), PAGE):
            os.write(fd, data[start : start + PAGE])
        if file_size > len(data):
            os.ftruncate(fd, file_size)
        os.fsync(fd)
        os.close(fd)
        request = {"arena": ARENA, "pages": PAGES, "path": path, "operations": operations}
        done = subprocess.run(
            [sys.executable, "-I", str(agent)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"agent ended with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def normal_vmas(vmas: list, model_keys: list[str]) -> list:
    """VMAs with only what both sides can report."""
    result = []
    for start, end, perms, offset, name, sums in vmas:
        kept = {key: sums.get(key, 0) for key in model_keys if key != "flags"}
        kept["flags"] = sorted(f for f in sums["flags"] if f in MNEMONICS)
        result.append([start, end, perms, offset, name, kept])
    return result


def normal_pages(present: list) -> list:
    """Pages with frames renamed by their first appearance."""
    names: dict[int, int] = {}
    return [[n, names.setdefault(pfn, len(names)), f, z] for n, pfn, f, z in present]


def first_difference(operations: list[list]) -> str | None:
    """Run both sides; return the first difference, or None.

    The agent's Python may, seldom, fault itself while a touch is being counted. A true
    difference comes every time, so one is believed only after three runs.
    """
    found = None
    for _ in range(3):
        found = _difference(operations)
        if found is None:
            break
    return found


def _difference(operations: list[list]) -> str | None:
    live = run_live(operations)
    model = Model(ARENA, PAGES, numbered(FILE_PAGES))
    for number, (operation, (result, picture)) in enumerate(zip(operations, live, strict=True)):
        mine = model.do(*operation)
        shown = [hex(a) if isinstance(a, int) else a for a in operation]
        where = f"operation {number} {shown}"
        if mine != result:
            return f"{where}: result {mine}, live {result}"
        look = model.look()
        keys = list(look["vmas"][0][5]) if look["vmas"] else []
        for ours, theirs in (
            (normal_vmas(look["vmas"], keys), normal_vmas(picture["vmas"], keys)),
            (normal_pages(look["present"]), normal_pages(picture["present"])),
        ):
            if ours != theirs:
                odd = [(a, b) for a, b in zip(ours, theirs, strict=False) if a != b][:2]
                return f"{where}: {len(ours)}/{len(theirs)}: first odd (model, live): {odd}"
    return None


def shrink(operations: list[list]) -> list[list]:
    """Leave out what the difference does not need."""
    found = first_difference(operations)
    if found is None:
        return operations
    operations = operations[: int(found.split()[1]) + 1]
    size = max(len(operations) // 2, 1)
    while size:
        at = 0
        while at < len(operations):
            shorter = operations[:at] + operations[at + size :]
            if shorter and first_difference(shorter):
                operations = shorter
            else:
                at += size
        size //= 2
    return operations


def main() -> None:
    """`python -m tests.kernel.mm.live_compare FIRST_SEED COUNT [LENGTH]`: look for differences."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    length = int(sys.argv[3]) if len(sys.argv) > 3 else 150
    for seed in range(first, first + count):
        operations = sequence(seed, length)
        found = first_difference(operations)
        if found:
            print(f"seed {seed}: {found}")
            if "--shrink" in sys.argv:
                small = shrink(operations)
                for operation in small:
                    print("   ", json.dumps(operation))
                print("   ", first_difference(small))
                return


if __name__ == "__main__":
    main()
