"""Compiles the small libraries and programs of the linker's tests."""

import os
import subprocess
from pathlib import Path


class Workshop:
    """Compiles C sources in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def build(self, output: str, source: str, *flags: str) -> str:
        """Compile `source` (C, or C++ for an output that ends in `++`) with `flags`."""
        compiler, suffix = ("g++", ".cc") if output.endswith("++") else ("gcc", ".c")
        output = output.removesuffix("++")
        path = self.directory / output
        path.parent.mkdir(parents=True, exist_ok=True)
        source_path = self.directory / (output.replace("/", "_") + suffix)
        source_path.write_text(source)
        # Libraries after the source, so that --as-needed keeps what is used.
        command = [compiler, "-w", "-O1", "-o", str(path), str(source_path), *flags]
        subprocess.run(command, check=True, cwd=self.directory)
        return str(path)

    def library(self, name: str, source: str, *flags: str) -> str:
        """A shared library `name` with its own name as soname."""
        soname = f"-Wl,-soname,{os.path.basename(name.removesuffix('++'))}"
        return self.build(name, source, "-shared", "-fPIC", soname, *flags)

    def program(self, source: str, *flags: str, name: str = "program") -> str:
        """A program that finds its libraries in the directory."""
        return self.build(
            name,
            source,
            "-Wl,--no-as-needed",
            f"-L{self.directory}",
            f"-Wl,-rpath,{self.directory}",
            *flags,
        )
