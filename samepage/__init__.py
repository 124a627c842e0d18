"""samepage shows which physical pages processes share when they use the same shared libraries."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Machine", "SamepageError", "__version__"]

if TYPE_CHECKING:
    from samepage.errors import SamepageError
    from samepage.model import Machine


def __getattr__(name: str) -> Any:
    # `samepage --help` must not pay for the CPU emulator: public names load when first used.
    if name == "Machine":
        from samepage.model import Machine

        return Machine
    if name == "SamepageError":
        from samepage.errors import SamepageError

        return SamepageError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
