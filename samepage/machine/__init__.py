"""The model machine for Python users: boot it, run programs, look at their pages.

    >>> from samepage import Machine
    >>> machine = Machine(ram=1 << 30)
    >>> first, second = machine.spawn(["true"]), machine.spawn(["uname"])
    >>> machine.run(first), machine.run(second)
    (0, 0)
    >>> [page.frame for page in first.pages("libc.so.6")][:2] == \
    ...     [page.frame for page in second.pages("libc.so.6")][:2]
    True
"""

from samepage.machine.frame import FrameInfo
from samepage.machine.guest import Guest, GuestMemory, Mapping, PageView
from samepage.machine.machine import Machine
from samepage.stop_at import StopAt

__all__ = ["FrameInfo", "Guest", "GuestMemory", "Machine", "Mapping", "PageView", "StopAt"]
