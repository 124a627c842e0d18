"""The engines that there are, by name: the only place that knows them all.

To add one: a package beside `unicorn` with a class that is an `Engine`, and a branch in each of
these functions. Nothing else may import such a package (a contract in `pyproject.toml`).
"""

from __future__ import annotations

from samepage.cpu.engine import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.cpu.engine import Engine, PageFaultHandler
    from samepage.cpu.sandbox import MakeSandbox

NAMES = ("unicorn", "native")
DEFAULT = "unicorn"


def prepare(name: str = DEFAULT) -> None:
    """Begin in a thread what takes long in making an engine, for the first `make_engine`.
    Raises `EngineError` if the engine is not installed."""
    _check(name)
    if name == "unicorn":
        from samepage.cpu.unicorn.emulator import prepare

        prepare()


def make_engine(name: str, ram_size: int, on_page_fault: PageFaultHandler) -> Engine:
    """An engine with `ram_size` bytes of memory (`cpu.engine.MakeEngine`)."""
    _check(name)
    if name == "native":
        from samepage.cpu.native.engine import NativeEngine

        return NativeEngine(ram_size, on_page_fault)
    from samepage.cpu.unicorn.engine import UnicornEngine

    return UnicornEngine(ram_size, on_page_fault)


def hidden_features(name: str = DEFAULT) -> str:
    """What a program must be kept from using where an engine's run is compared with the host's
    own, in the form of `glibc.cpu.hwcaps`: the host's CPU may have it, the engine's has not."""
    _check(name)
    if name == "native":
        return ""
    from samepage.cpu.unicorn.features import HIDDEN_FEATURES

    return HIDDEN_FEATURES


def sandbox_maker() -> MakeSandbox:
    """What makes a `Sandbox`, to run single functions without a kernel."""
    from samepage.cpu.unicorn.sandbox import UnicornSandbox

    return UnicornSandbox


def _check(name: str) -> None:
    if name not in NAMES:
        raise EngineError(f"there is no engine {name!r}: it is one of {', '.join(NAMES)}")
