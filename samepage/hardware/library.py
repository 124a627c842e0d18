"""Unicorn's shared library.

It has some 75,000 relocations, so that ld.so needs 6 ms to load it: a tenth of the time that
`samepage run` takes to start. ctypes calls ld.so without Python's lock. So a command that
will need the library calls `preload` first, and its modules are imported meanwhile.
"""

import ctypes
import importlib.util
import os
import threading


class EngineError(Exception):
    """Unicorn refused a call: a bug, or no memory on the host; or it is not there at all."""


_loader: threading.Thread | None = None


def preload() -> None:
    """Start to load the library, in a thread; `load` tells of errors."""
    global _loader
    if _loader is None:
        _loader = threading.Thread(target=_try, name="preload", daemon=True)
        _loader.start()


def _try() -> None:
    try:
        ctypes.CDLL(_path())
    except (OSError, EngineError):
        pass  # `load` will meet it too


def load() -> ctypes.CDLL:
    """The library. Raises `EngineError` if the package is not installed, or `OSError`."""
    if _loader is not None:
        _loader.join()
    return ctypes.CDLL(_path())


def _path() -> str:
    spec = importlib.util.find_spec("unicorn")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("the package unicorn is not installed")
    return os.path.join(spec.submodule_search_locations[0], "lib", "libunicorn.so.2")
