"""The command line: one module per command, found through a static table."""

import gc

from samepage.cli import bytecode

# Start and exit make and drop many objects and hardly any garbage; looking for it as often
# as Python does by default took a tenth of a short run. Both of these must come before the
# imports that they make faster.
gc.set_threshold(50_000)
bytecode.install()
