"""The command line: one module per command, found through a static table."""

import gc

# Start and exit make and drop many objects and hardly any garbage; looking for it as often
# as Python does by default took a tenth of a short run. This comes before the imports that
# it makes faster.
gc.set_threshold(50_000)
