"""`python -m samepage` is the same as the command `samepage`."""

from samepage.cli.main import main

main()
