"""/proc: what the model reports about itself, in Linux's own formats.

- `view`: what the kernel must provide. `nodes`: files whose text is made when read.
- `root`: the root. `fixed`: what is always in it. `process`: /proc/PID.
- `maps`, `smaps`, `status`: the texts of a process.
- `system`: /proc/meminfo and others that are about the whole machine.
"""

from samepage.kernel.fs.procfs.root import MAGIC, ProcFs

__all__ = ["MAGIC", "ProcFs"]
