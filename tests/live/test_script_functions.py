"""Perf maps and jitdump files, as runtimes write them."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from samepage.live.functions import Functions
from samepage.live.script_functions import (
    ScriptFunctions,
    has_script_functions,
    read_script_functions,
    unnamed_scripts,
)
from samepage.live.script_functions import _read_jitdump as read_jitdump
from samepage.snapshot.writes import Function


def perf_python() -> str | None:
    """A CPython that can write a perf map (3.12): of PATH, or one that pyenv has installed."""
    found = [shutil.which(f"python3.{version}") for version in (12, 13, 14)]
    installed = Path("~/.pyenv/versions").expanduser().glob("3.1[2-9]*/bin/python3")
    for path in [*filter(None, found), *map(str, installed)]:
        run = subprocess.run([path, "-X", "perf", "-c", ""], capture_output=True)
        if run.returncode == 0:
            return path
    return None


def test_functions_of_python_are_those_of_its_perf_map(tmp_path: Path) -> None:
    python = perf_python()
    if python is None:
        pytest.skip("no Python that knows -X perf is installed")
    script = tmp_path / "served.py"
    script.write_text("def serve():\n    print(flush=True)\n    input()\nserve()\n")
    with subprocess.Popen(
        [python, "-X", "perf", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert has_script_functions(process.pid)
        found = read_script_functions(process.pid, Functions().areas(process.pid))
        listed = Path(f"/tmp/perf-{process.pid}.map")
        line = next(line for line in listed.read_text().splitlines() if "py::serve:" in line)
        start, size, _ = line.split(None, 2)
        inside = found.at(int(start, 16) + int(size, 16) - 1)
        process.communicate(b"\n", timeout=20)
        listed.unlink(missing_ok=True)
    assert inside == Function("serve", str(script))


def test_functions_of_javascript_are_those_of_nodes_perf_map(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = tmp_path / "served.js"
    script.write_text(
        "function serve(n) { let t = 0; for (let i = 0; i < n; i++) t += i % 7; return t }\n"
        "for (let i = 0; i < 1000; i++) serve(10000)\n"
        "console.log(serve(3)); process.stdin.once('data', () => process.exit())\n"
    )
    with subprocess.Popen(
        [node, "--perf-basic-prof", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = read_script_functions(process.pid, Functions().areas(process.pid))
        process.communicate(b"\n", timeout=20)
        Path(f"/tmp/perf-{process.pid}.map").unlink(missing_ok=True)
    names = {function for _, function in found._pieces.values()}
    assert Function("serve", str(script)) in names


def test_a_jitdump_file_names_code_also_after_it_moved() -> None:
    def record(kind: int, body: bytes) -> bytes:
        return struct.pack("<IIQ", kind, 16 + len(body), 0) + body

    data = struct.pack("<IIIIIIQQ", 0x4A695444, 1, 40, 62, 0, 1, 0, 0)
    load = struct.pack("<IIQQQQ", 1, 1, 0, 0x1000, 0x20, 5) + b"py::f:/a.py\0" + bytes(0x20)
    data += (
        record(0, load)
        + record(2, b"")
        + record(1, struct.pack("<IIQQQQQ", 1, 1, 0, 0x1000, 0x3000, 0x20, 5))
    )
    found = ScriptFunctions()
    read_jitdump(data, found)
    assert found.at(0x3010) == Function("f", "/a.py")
    assert found.at(0x3020) is None
    read_jitdump(data[:-3], ScriptFunctions())
    read_jitdump(b"JiTD", ScriptFunctions())


def test_a_map_that_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        path = Path(f"/tmp/perf-{process.pid}.map")
        os.mkfifo(path)
        try:
            assert len(read_script_functions(process.pid, [])) == 0
        finally:
            path.unlink()
            process.communicate(b"\n", timeout=20)


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"libpython3.11.so.1.0"}, "Python 3.11 functions are not named: that needs Python 3.12"),
        ({"python3.12"}, "Python 3.12 functions are not named: start it with -X perf"),
        ({"python3.14"}, "or let sys.remote_exec run"),
        ({"ruby3.1", "libruby-3.1.so.3.1"}, "Ruby functions are not named"),
        ({"node"}, "start node with --perf-basic-prof"),
    ],
)
def test_what_keeps_functions_from_being_named_is_one_line(files: set[str], line: str) -> None:
    (found,) = unnamed_scripts(files)
    assert line in found


def test_other_programs_have_no_such_line() -> None:
    assert unnamed_scripts({"nginx", "libc.so.6", "libpython_helper.so"}) == []
