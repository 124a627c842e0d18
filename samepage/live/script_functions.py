"""The functions of scripts and of generated code: perf maps and jitdump files.

A runtime that generates code can export which function a piece of it belongs to, in one of two
forms that perf defines:

- /tmp/perf-PID.map: lines `START SIZE NAME`, in hexadecimal (tools/perf/Documentation/
  jit-interface.txt). CPython writes it with `-X perf` or PYTHONPERFSUPPORT=1 (3.12), names being
  `py::FUNCTION:FILE`; node with `--perf-basic-prof`; the JVM with an agent.
- jit-PID.dump, of which the process maps the first page (jitdump-specification.txt): binary
  records with times. node --perf-prof, CPython -X perf_jit (3.13).

The files are those of the process's own mount namespace, and PID its number in its own pid
namespace. A forked process runs code of its parent, whose map is asked after its own.
"""

import os
import re
import stat
import struct
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, field

from samepage.live.functions import CodeArea
from samepage.live.procfs import read_file
from samepage.snapshot.writes import Function

_PYTHON = re.compile(r"(?:lib)?python3\.(\d+)(?:[dmt]*)(?:\.so|$)")
_RUBY = re.compile(r"ruby\d|ruby$|libruby")
_FIRST_TRAMPOLINES, _FIRST_REMOTE = 12, 14
_ASKS_FOR_NAMES = frozenset(
    (b"perf", b"perf_jit", b"-Xperf", b"-Xperf_jit", b"--perf-basic-prof", b"--perf-prof")
)
_JITDUMP_NAME = re.compile(r"/jit-\d+\.dump$")
_JITDUMP_MAGIC = 0x4A695444
_JITDUMP_HEADER = struct.Struct("<IIIIIIQQ")  # magic, version, total_size, ...
_RECORD = struct.Struct("<IIQ")  # id, total_size, time
_CODE_LOAD, _CODE_MOVE = 0, 1
_LOAD = struct.Struct("<IIQQQQ")  # pid, tid, vma, code_addr, code_size, code_index
_MOVE = struct.Struct("<IIQQQQQ")  # pid, tid, vma, old, new, size, index
_LARGEST = 256 << 20
GENERATED = "[generated code]"
"""The file of a function that names none."""


@dataclass(slots=True)
class ScriptFunctions:
    """The pieces of generated code of one process; where two overlap, the later one counts."""

    _pieces: dict[int, tuple[int, Function]] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, start: int, size: int, name: str) -> None:
        """Add a piece of code, `size` in bytes."""
        self._pieces[start] = start + size, _function(name)
        self._starts = []

    def at(self, address: int) -> Function | None:
        """The function whose code holds an address."""
        if not self._starts:
            self._starts = sorted(self._pieces)
        place = bisect_right(self._starts, address) - 1
        if place < 0:
            return None
        end, function = self._pieces[self._starts[place]]
        return function if address < end else None


def read_script_functions(pid: int, areas: list[CodeArea]) -> ScriptFunctions:
    """What a live process has written; empty if it has not, or the file cannot be read."""
    found = ScriptFunctions()
    root = f"/proc/{pid}/root"
    text = _read(_perf_map(pid)).decode("utf-8", "replace")
    for line in text.splitlines():
        words = line.split(None, 2)
        try:
            found.add(int(words[0], 16), int(words[1], 16), words[2] if len(words) > 2 else "")
        except (ValueError, IndexError):
            continue
    for path in {area.name for area in areas if _JITDUMP_NAME.search(area.name)}:
        _read_jitdump(_read(root + path), found)
    return found


def has_script_functions(pid: int) -> bool:
    """Whether a live process writes which functions its code belongs to, or will: it was started
    with the option or variable for it."""
    if os.path.exists(_perf_map(pid)):
        return True
    try:
        words = read_file(f"/proc/{pid}/cmdline").split(b"\0")
        variables = read_file(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False
    return not _ASKS_FOR_NAMES.isdisjoint(words) or b"PYTHONPERFSUPPORT=1" in variables


def unnamed_scripts(files: Collection[str]) -> list[str]:
    """Why the functions of the scripts that run with these files (names of programs and
    libraries) are not named, and the way to get the names; one line for each runtime."""
    lines = []
    for match in filter(None, map(_PYTHON.match, sorted(files))):
        version = int(match[1])
        if version < _FIRST_TRAMPOLINES:
            way = "that needs Python 3.12 or newer"
        else:
            way = "start it with -X perf or PYTHONPERFSUPPORT=1"
            if version >= _FIRST_REMOTE:
                way += ', or let sys.remote_exec run sys.activate_stack_trampoline("perf") in it'
        lines.append(f"Python 3.{version} functions are not named: {way}")
    if any(_RUBY.match(name) for name in files):
        lines.append("Ruby functions are not named: what is listed is Ruby's own, native code")
    if "node" in files:
        lines.append("JavaScript functions are not named: start node with --perf-basic-prof")
    return list(dict.fromkeys(lines))


def _read_jitdump(data: bytes, found: ScriptFunctions) -> None:
    if len(data) < _JITDUMP_HEADER.size:
        return
    magic, _, at, *_ = _JITDUMP_HEADER.unpack_from(data)
    if magic != _JITDUMP_MAGIC:
        return
    by_index: dict[int, str] = {}
    while at + _RECORD.size <= len(data):
        kind, size, _ = _RECORD.unpack_from(data, at)
        body, at = at + _RECORD.size, at + size
        if size < _RECORD.size or at > len(data):
            return
        if kind == _CODE_LOAD and body + _LOAD.size <= at:
            _, _, _, start, length, index = _LOAD.unpack_from(data, body)
            name = data[body + _LOAD.size : at].partition(b"\0")[0].decode("utf-8", "replace")
            by_index[index] = name
            found.add(start, length, name)
        elif kind == _CODE_MOVE and body + _MOVE.size <= at:
            *_, start, length, index = _MOVE.unpack_from(data, body)
            found.add(start, length, by_index.get(index, ""))


def _function(name: str) -> Function:
    """CPython writes `py::FUNCTION:FILE`, V8 `KIND:FUNCTION FILE:LINE:COLUMN`."""
    if name.startswith("py::"):
        function, _, file = name[4:].partition(":")
        return Function(function, file or GENERATED)
    kind, colon, rest = name.partition(":")
    if colon and kind.isalnum():
        function, _, place = rest.partition(" ")
        file = re.sub(r"(:\d+){1,2}$", "", place)
        return Function(function.lstrip("~*^+") or "(anonymous)", file or GENERATED)
    return Function(name, GENERATED)


def _perf_map(pid: int) -> str:
    return f"/proc/{pid}/root/tmp/perf-{_own_number(pid)}.map"


def _own_number(pid: int) -> int:
    """The process's number in its own pid namespace (the last of NSpid)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
    except OSError:
        pass
    return pid


def _read(path: str) -> bytes:
    """A file that another process chose: only a plain one is read, and nothing is waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(fd, "rb") as file:
        return file.read(_LARGEST) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
