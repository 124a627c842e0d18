"""Names are demangled as binutils' c++filt does it, but for the spaces in `> >` and `<< <`."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from samepage.elf.object import DynamicObject
from samepage.report.symbols import readable

LIBRARY = "/lib/x86_64-linux-gnu/libstdc++.so.6"


def test_names_of_a_real_library() -> None:
    if not shutil.which("c++filt") or not Path(LIBRARY).exists():
        pytest.skip("no c++filt, or no libstdc++")
    found = DynamicObject.open(LIBRARY)
    names = found.strings.pool(found.symbols["st_name"]).names()
    # The abbreviations of the ABI (Ss for std::string) are written out by binutils only.
    names = [name for name in names if re.match(r"_Z(?!.*S[absiod])", name)][::10]
    filtered = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ours = [readable(name) for name in names]
    assert len(ours) > 100
    assert ours == [re.sub("(?<=>) (?=>)|(?<=<<) (?=<)", "", theirs) for theirs in filtered]


def test_rust_and_plain_names() -> None:
    assert readable("_RNvC6_123foo3bar") == "123foo::bar"
    assert readable("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE") == "core::fmt::Formatter::pad"
    assert readable("main") == "main"
    assert readable("_Z") == "_Z"
    assert readable("a\x1b") == "a\\x1b"
