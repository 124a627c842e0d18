"""What the kernel counts of the whole machine's memory.

/proc/meminfo has the kinds. Pages that are free but lie in the lists of a CPU, from which it takes
and to which it gives back without a lock (`per_cpu_pages` in mm/page_alloc.c), are in no line of
it, and are not in MemFree; /proc/zoneinfo has their number as `count`. What zram and zswap have
compressed is in /proc/vmstat (`nr_zspages`, of zsmalloc).
"""

import re

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.live.procfs import read_file

_LINE = re.compile(rb"^([\w()]+): +([0-9]{1,15})( kB)?$", re.MULTILINE)
_ZSPAGES = re.compile(rb"^nr_zspages ([0-9]{1,15})$", re.MULTILINE)
_COUNT = re.compile(rb"^ +count: +([0-9]{1,12})$", re.MULTILINE)


def read_machine(proc: str = "/proc") -> dict[str, int]:
    """Return the lines of meminfo in bytes (those without a unit are counts), and two of others.

    These are "zoneinfo.count" and "vmstat.nr_zspages", in bytes too. Empty if meminfo cannot be
    read.
    """
    try:
        found = {
            name.decode(): int(value) << (10 if unit else 0)
            for name, value, unit in _LINE.findall(read_file(f"{proc}/meminfo"))
        }
    except OSError:
        return {}
    for name, line, pattern in (("zoneinfo", "count", _COUNT), ("vmstat", "nr_zspages", _ZSPAGES)):
        try:
            pages = sum(map(int, pattern.findall(read_file(f"{proc}/{name}"))))
        except OSError:
            continue
        found[f"{name}.{line}"] = pages * HOST_PAGE_SIZE
    return found
