"""Calling the constructors and destructors of a library that is in this very process.

The order is that of the gABI: DT_INIT comes before DT_INIT_ARRAY, and DT_FINI after
DT_FINI_ARRAY, which is called from its end. Constructors get what `main` gets (`call_init` of
glibc).
"""

import ctypes
import os
import struct
import sys
from collections.abc import Callable

from samepage.elf.dynamic import Tag
from samepage.linker.inprocess.process import ProcessMemory
from samepage.linker.maps import LinkMap


def call_array(memory: ProcessMemory, link: LinkMap, one: Tag, array: Tag, size: Tag) -> None:
    """Call an object's constructors in order, or its destructors in reverse order."""
    dynamic = link.object.dynamic
    start, length = dynamic.get(array), dynamic.value(size)
    functions: list[int] = []
    if start is not None:
        words = memory.read(link.base + start, length)
        functions = list(struct.unpack(f"<{length // 8}Q", words[: length // 8 * 8]))
    single = dynamic.get(one)
    is_fini = array == Tag.FINI_ARRAY
    if is_fini:
        functions.reverse()
    if single is not None:
        functions.insert(len(functions) if is_fini else 0, link.base + single)
    arguments = [] if is_fini else _main_arguments()
    prototype: Callable[[int], Callable[..., None]] = (
        ctypes.CFUNCTYPE(None)
        if is_fini
        else ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    )
    for function in functions:
        if function not in (0, 2**64 - 1):
            prototype(function)(*arguments)


def _main_arguments() -> list[object]:
    """argc, argv and environ, which constructors get as `main` does."""
    argv = [os.fsencode(argument) for argument in sys.orig_argv]
    array = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    _ALIVE.append(array)
    environ = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ")
    return [len(argv), ctypes.addressof(array), environ.value]


_ALIVE: list[object] = []
"""What a constructor may have kept a pointer to."""
