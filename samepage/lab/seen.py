"""What the readings of /proc, and the records of the kernel, show of processes: memory maps,
names, who forked whom. The latest reading of each counts, and what is known of one that has
ended stays."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.lab.targets import parent_of
from samepage.live.functions import CodeArea, Functions
from samepage.live.pagemap import Scanner
from samepage.live.private_frames import read_private_frames
from samepage.live.script_functions import (
    ScriptFunctions,
    read_script_functions,
    unnamed_scripts,
)
from samepage.snapshot.writes import KERNEL, UNKNOWN_AREA, Area, Frames, Function
from samepage.trace.perf.tasks import FOREVER, Tasks


class Seen:
    """The processes. `names`: what `comm` is; `parents`: who forked each, if that is known."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.parents: dict[int, int] = {}
        self._first: dict[int, list[CodeArea]] = {}
        self._latest: dict[int, list[CodeArea]] = {}
        self._tasks = Tasks()
        self._functions = Functions()
        self._scripts: dict[int, ScriptFunctions] = {}
        self._scanner = Scanner()

    def read(self, pids: Sequence[int], missing: list[str]) -> dict[int, Frames]:
        """The frames of those that live and may be read; a line in `missing` names each other."""
        frames = {}
        for pid in pids:
            try:
                frames[pid] = read_private_frames(pid, self._scanner)
            except PermissionError:
                missing.append(f"process {pid}: its memory map may not be read")
                continue
            except (FileNotFoundError, ProcessLookupError):
                continue
            areas = self._functions.areas(pid)
            if pid in self._first:
                self._latest[pid] = areas
            self._first.setdefault(pid, areas)
            self._scripts[pid] = read_script_functions(pid, areas)
            self.names[pid] = _comm(pid)
            self.parents.setdefault(pid, parent_of(pid))
        return frames

    def add(self, tasks: Tasks) -> None:
        """Fill in from the kernel's records what no reading of /proc came in time for."""
        self.parents.update({pid: parent for pid, (parent, _) in tasks.forks.items()})
        self._tasks = tasks

    def function(self, pid: int, address: int) -> Function:
        """The function of an instruction of a process; 0 is the kernel's."""
        if not address:
            return KERNEL
        area = self._find(pid, address)
        if area is None or not area.inode:
            generated = self._generated(pid, address)
            if generated:
                return generated
        return self._functions.at(pid, area, address)

    def script_function(self, pid: int, callers: Sequence[int]) -> Function | None:
        """The innermost function of a script among return addresses (0: none)."""
        found = (self._generated(pid, address) for address in callers if address)
        return next((function for function in found if function), None)

    def _generated(self, pid: int, address: int) -> Function | None:
        scripts = self._scripts.get(pid)
        found = scripts.at(address) if scripts else None
        parent = self.parents.get(pid, 0)
        if found or pid in self._tasks.execs or parent not in self._scripts:
            return found
        return self._generated(parent, address)

    @property
    def mappings(self) -> Iterator[CodeArea]:
        """What all processes had mapped when they were read."""
        for areas in (*self._first.values(), *self._latest.values()):
            yield from areas

    @property
    def generates_code(self) -> bool:
        """Whether a process has written which functions its generated code belongs to."""
        return any(self._scripts.values())

    def unnamed_scripts(self) -> list[str]:
        """What keeps functions of scripts from being named, a line for each runtime."""
        programs = {
            area.name.rpartition("/")[2]
            for pid, areas in (self._first | self._latest).items()
            if not self._scripts.get(pid)
            for area in areas
            if area.perms[2] == "x" and area.inode
        }
        return unnamed_scripts(programs)

    def area(self, pid: int, address: int) -> tuple[Area, int]:
        """The memory at an address, and which page of its file that is (-1: it has none).

        A file that is mapped shared counts as memory without a file: a write to it makes no
        copy.
        """
        found = self._find(pid, address)
        if found is None:
            return UNKNOWN_AREA, -1
        area = Area(found.name)
        if not (area.is_file and found.private):
            return area, -1
        return area, (address - found.start + found.offset) // HOST_PAGE_SIZE

    def _find(self, pid: int, address: int, time: int = FOREVER) -> CodeArea | None:
        """The mapping at an address, as it was at a time: by a reading, by the kernel's records,
        or as the parent had it when the process was forked."""
        executed = self._tasks.last_exec(pid, time)
        current = executed == self._tasks.last_exec(pid)
        if current and (area := _at(self._latest.get(pid, []), address)):
            return area
        for made in reversed(self._tasks.mappings.get(pid, [])):
            if executed <= made.time <= time and made.start <= address < made.end:
                return CodeArea(
                    made.start, made.end, made.perms, made.offset, made.inode, made.name
                )
        if executed:
            return None
        if area := _at(self._first.get(pid, []), address):
            return area
        parent, forked = self._tasks.forks.get(pid, (0, 0))
        return self._find(parent, address, forked) if parent else None


def _at(areas: Sequence[CodeArea], address: int) -> CodeArea | None:
    place = bisect_right(areas, address, key=lambda area: area.start) - 1
    return areas[place] if place >= 0 and address < areas[place].end else None


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
