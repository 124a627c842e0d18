"""The command line: one module per command, found through a static table."""

from samepage.cli import bytecode

bytecode.install()
