"""Unicorn's shared library.

It has some 75,000 relocations, so that ld.so needs 6 ms to load it, and an emulator takes one
more to make: a twelfth of the time that `samepage run true` takes. So a command that will need
one calls `engines.prepare`, and the modules are imported meanwhile. `ctypes.CDLL` would hold
Python's lock while ld.so works, and would bind all functions at once; `dlopen` called as a
foreign function does neither.

ld.so holds its lock meanwhile, so the import of a module that is a shared library itself would
wait. Those that a machine needs are imported before.
"""

import ctypes
import functools
import importlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import PathFinder

from samepage.cpu.engine import EngineError

_LIBRARIES = ("fcntl", "mmap", "random", "resource", "select")
"""Modules of the standard library that are shared libraries, or import such."""

_loader: threading.Thread | None = None


def preload(use: Callable[[], None]) -> None:
    """Call `use`, which loads the library, in a thread, and return. What goes wrong there does
    so again, and is reported, when the library is needed.

    Raises `EngineError` if it is not installed.
    """
    global _loader
    if _loader is None:
        for name in _LIBRARIES:
            importlib.import_module(name)
        _path()
        _loader = threading.Thread(target=_preload, args=(use,), name="preload", daemon=True)
        _loader.start()


def _preload(use: Callable[[], None]) -> None:
    with suppress(EngineError):
        use()


def finish_preload() -> None:
    """Wait for the thread, if there is one."""
    if _loader is not None:
        _loader.join()


@functools.cache
def load() -> ctypes.CDLL:
    """The library. Raises `EngineError` if it is not installed or cannot be loaded."""
    path = _path()
    handle = _dlopen(path)
    if not handle:
        raise EngineError(f"{path} cannot be loaded")
    return ctypes.CDLL(path, handle=handle)


def _dlopen(path: str) -> int | None:
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    handle: int | None = dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_LOCAL)
    return handle


@functools.cache
def _path() -> str:
    spec = PathFinder.find_spec("unicorn")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("the package unicorn is not installed")
    return os.path.join(spec.submodule_search_locations[0], "lib", "libunicorn.so.2")
