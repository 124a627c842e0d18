"""samepage shows which physical pages processes share when they use the same shared libraries."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from samepage.model import Machine as Machine

__all__ = ["Machine", "__version__"]


def __getattr__(name: str) -> Any:
    # `import samepage` stays cheap: the CPU emulator loads when a machine is wanted.
    if name == "Machine":
        from samepage.model import Machine

        return Machine
    raise AttributeError(f"module 'samepage' has no attribute {name!r}")
