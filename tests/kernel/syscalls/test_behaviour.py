"""Each small C program of `c/` prints the same and ends the same way on the model as natively.

The programs are the `TEST(name)` blocks of the C files, compiled into one binary. They run
one after the other on one machine; after each of them the machine's invariants are checked,
and that no frame was left behind.

Two things are known to differ, and are not tested: the emulated CPU does not check the
alignment of SSE operands, and does not set the exception flags in MXCSR.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from samepage import Machine
from samepage.kernel.debug import check_kernel
from tests.kernel.programs import run_natively, run_on_model

SOURCES = sorted(Path(__file__).with_name("c").glob("*.c"))
BEHAVIOURS = [
    name
    for source in SOURCES
    for name in re.findall(r"^(?:TEST|IN_PLACE)\((\w+)\)", source.read_text(), re.MULTILINE)
]
NATIVE_RUNS = 4
AS_GCC_14 = ["-Werror=implicit-function-declaration", "-Werror=incompatible-pointer-types"]
"""What gcc refuses from version 14 on, so that an older one finds it too."""
ENGINES = ("unicorn", "native")


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    target = tmp_path_factory.mktemp("behaviours") / "behaviours"
    flags = ["-O1", *AS_GCC_14, "-std=gnu17", "-D_GNU_SOURCE", "-pthread", "-fno-stack-protector"]
    subprocess.run(["gcc", *flags, *SOURCES, "-o", target, "-lm"], check=True)
    return str(target)


@pytest.fixture(scope="module", params=ENGINES)
def machine(request: pytest.FixtureRequest) -> tuple[Machine, int]:
    machine = Machine("1G", timeout=30, engine=request.param)
    kernel = machine.kernel
    return machine, kernel.frames.n_used - len(kernel.cache.owner)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_behaves_as_natively(name: str, binary: str, machine: tuple[Machine, int]) -> None:
    argv = [binary, name]
    model, frames = machine
    try:
        ours = run_on_model(argv, machine=model)
        # Some wait a few milliseconds for another process, which a busy host may not run.
        native = [run_natively(argv)]
        while ours != native[-1] and len(native) < NATIVE_RUNS:
            native.append(run_natively(argv))
        assert ours == native[-1]
        check_kernel(model.kernel)
    finally:
        _check_nothing_left(model, frames)


def _check_nothing_left(machine: Machine, frames_before: int) -> None:
    """Give back what exited programs hold; then all frames but the page cache are free."""
    kernel = machine.kernel
    for guest in list(machine.guests):
        machine.discard(guest)
    kept = len(kernel.cache.owner)
    assert not [p for p in kernel.processes.values() if p.threads]
    assert not kernel.cache.spaces
    assert kernel.frames.n_used - kept == frames_before, "frames were not given back"
