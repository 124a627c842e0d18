"""The bytecode of all modules of samepage in one file, so that a command starts faster.

Python finds, checks and reads a file in `__pycache__` for each module: 0.2 ms each, a sixth of
the time of `samepage run true`, which imports 90. Here one file is read, and a module costs
one `stat`.

The file stands in the same `__pycache__` and follows the rules of Python's own files (PEP 3147):
an entry counts only while its source file has the size and time of change that it had when it
was compiled, and only for the same version of Python. What is missing or stale is imported in
the ordinary way, and written when the command ends, unless `sys.dont_write_bytecode` forbids it
or the directory cannot be written to.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType

PACKAGE = "samepage"
_PREFIX = f"{PACKAGE}."
_HEAD = 8
"""Bytes at the file's start that tell the table's length."""
_IDENTITY = f"{sys.version} optimize={sys.flags.optimize}"
"""What decides whether bytecode can be executed."""


Entry = tuple[int, int, bool, int, int]
"""A module: time of change (ns) and size of its source when it was compiled; whether it is a
package; offset and length of its marshalled code object behind the table."""


class _Loader(SourceFileLoader):
    """Loads one module whose code object is known already."""

    def __init__(self, name: str, path: str, code: bytes) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = marshal.loads(self._code)
        return code


class Finder:
    """The entry in `sys.meta_path` that answers from the file.

    `root` is the package's directory, `path` the file. `missed` tells that a module was asked
    for that the file does not have.
    """

    def __init__(self, root: str, path: str) -> None:
        self.path = path
        self.missed = False
        self._root = root
        self._file, self._start, self._table = _open(path)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module of this package, None if it is another one or has no valid entry."""
        if not name.startswith(_PREFIX):
            return None
        found = self._find(name)
        if found is None:
            self.missed = True
            return None
        source, is_package, code = found
        spec = ModuleSpec(name, _Loader(name, source, code), origin=source)
        spec.has_location = True
        spec.cached = self.path
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def _find(self, name: str) -> tuple[str, bool, bytes] | None:
        """The source, whether it is a package, and the code of a module whose entry is valid."""
        entry = self._table.get(name)
        if entry is None:
            return None
        mtime, size, is_package, offset, length = entry
        path = self._root + name[len(PACKAGE) :].replace(".", "/")
        path += "/__init__.py" if is_package else ".py"
        try:
            source = os.stat(path)
            code = os.pread(self._file, length, self._start + offset)
        except OSError:
            return None
        valid = source.st_mtime_ns == mtime and source.st_size == size and len(code) == length
        return (path, is_package, code) if valid else None

    def write(self) -> None:
        """Write the file anew, with the modules that were imported by now."""
        modules: dict[str, tuple[int, int, bool, bytes]] = {}
        for name, (mtime, size, is_package, *_) in self._table.items():
            found = self._find(name)
            if found is not None:
                modules[name] = (mtime, size, is_package, found[2])
        for name, module in list(sys.modules.items()):
            if name.startswith(_PREFIX) and name not in modules:
                compiled = _compiled(module)
                if compiled is not None:
                    modules[name] = compiled
        table: dict[str, Entry] = {}
        codes = bytearray()
        for name, (mtime, size, is_package, code) in modules.items():
            table[name] = (mtime, size, is_package, len(codes), len(code))
            codes += code
        head = marshal.dumps((_IDENTITY, table))
        temporary = f"{self.path}.{os.getpid()}"
        try:
            with open(temporary, "xb") as file:
                file.write(len(head).to_bytes(_HEAD, "little") + head + codes)
            os.replace(temporary, self.path)
        except OSError:  # a full disk, or nobody may write here: the next start is slow too
            with suppress(OSError):
                os.unlink(temporary)


def _open(path: str) -> tuple[int, int, dict[str, Entry]]:
    """The file's descriptor, where the codes start, and the table; this is empty if there is
    no file for us.

    The file stays open, since most commands need a part of it only.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1, 0, {}
    try:
        if file <= 2:  # a standard stream is closed, and must stay so
            raise ValueError(file)
        head = os.pread(file, _HEAD, 0)
        start = _HEAD + int.from_bytes(head, "little")
        identity, table = marshal.loads(os.pread(file, start - _HEAD, _HEAD))
        if identity != _IDENTITY:
            raise ValueError(identity)
    except (OSError, ValueError, TypeError, EOFError, OverflowError, MemoryError):
        os.close(file)
        return -1, 0, {}
    return file, start, table


def _compiled(module: ModuleType) -> tuple[int, int, bool, bytes] | None:
    """What is written of an imported module; None if its source is no file, or changes now."""
    spec = module.__spec__
    if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
        return None
    try:
        before = os.stat(spec.origin)
        code = spec.loader.get_code(spec.name)
        after = os.stat(spec.origin)
    except (OSError, SyntaxError):
        return None
    if code is None or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        return None
    is_package = spec.submodule_search_locations is not None
    return before.st_mtime_ns, before.st_size, is_package, marshal.dumps(code)


def install() -> None:
    """Answer imports of samepage's modules from the file."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    name = f"{PACKAGE}.{sys.implementation.cache_tag}.bytecode"
    sys.meta_path.insert(0, Finder(root, os.path.join(root, "__pycache__", name)))


def save() -> None:
    """Write the file if it lacks a module that was imported."""
    if sys.dont_write_bytecode:
        return
    for finder in sys.meta_path:
        if isinstance(finder, Finder) and finder.missed:
            finder.write()
