"""Every machine of the suite checks its kernel's invariants while it runs."""

import os

from samepage.machine.machine import DEBUG_VARIABLE

os.environ.setdefault(DEBUG_VARIABLE, "1")
