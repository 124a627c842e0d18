"""The program of the stub is what its source assembles to."""

import shutil
import subprocess
from pathlib import Path

import pytest

import samepage

NATIVE = Path(samepage.__file__).parent / "cpu/native"


def test_the_shipped_program_is_what_the_assembler_makes(tmp_path):
    if shutil.which("as") is None or shutil.which("ld") is None:
        pytest.skip("there is no assembler")
    made, program = tmp_path / "stub.o", tmp_path / "stub.bin"
    subprocess.run(["as", "-o", made, NATIVE / "stub.s"], check=True)
    subprocess.run(["ld", "-Ttext=0", "--oformat", "binary", "-o", program, made], check=True)
    assert program.read_bytes() == (NATIVE / "stub.bin").read_bytes()
