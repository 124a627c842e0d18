"""samepage shows which physical pages processes share when they use the same shared libraries."""

from __future__ import annotations

from samepage.errors import SamepageError

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from samepage.machine import Machine as Machine
    from samepage.machine import StopAt as StopAt

__all__ = ["Machine", "SamepageError", "StopAt", "__version__"]


def __getattr__(name: str) -> Any:
    # `import samepage` stays cheap: the CPU emulator loads when a machine is wanted.
    if name in ("Machine", "StopAt"):
        import samepage.machine

        return getattr(samepage.machine, name)
    raise AttributeError(f"module 'samepage' has no attribute {name!r}")
