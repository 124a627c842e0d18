"""Functions by address, against `nm`."""

import os
import shutil
import subprocess

import pytest

from samepage.elf.file import ElfFile
from samepage.elf.functions import SymbolsByAddress

LIBC = os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6")


@pytest.mark.skipif(not shutil.which("nm"), reason="nm (binutils) is not installed")
@pytest.mark.skipif(not os.path.exists(LIBC), reason="no libc at Debian's path")
def test_every_function_of_libc_is_found_under_one_of_its_names() -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", "--without-symbol-versions", "-S", LIBC],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names: dict[int, set[str]] = {}
    sizes: dict[int, int] = {}
    for line in listing.splitlines():
        match line.split():
            case [value, size, kind, name] if kind in "TWi":
                names.setdefault(int(value, 16), set()).add(name)
                sizes[int(value, 16)] = int(size, 16)
    symbols = SymbolsByAddress(ElfFile.open(LIBC))
    assert len(names) > 1000
    for address, expected in names.items():
        place = symbols.at(address)
        assert place is not None
        assert place.name in expected
        assert place.offset == 0
        last = symbols.at(address + max(sizes[address], 1) - 1)
        assert last is not None  # another function may begin inside of this one


def test_an_address_before_the_first_function_has_no_name() -> None:
    symbols = SymbolsByAddress(ElfFile.open(os.path.realpath("/proc/self/exe")))
    assert symbols.at(0) is None
    assert symbols.at(2**63) is None


def test_the_plainest_of_several_names_is_shown() -> None:
    if not os.path.exists(LIBC):
        pytest.skip("no libc at Debian's path")
    symbols = SymbolsByAddress(ElfFile.open(LIBC))
    address = symbols.address("__write")
    assert address is not None
    assert str(symbols.at(address)) == "write"
    assert str(symbols.at(address + 4)) == "write+0x4"
