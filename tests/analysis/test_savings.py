"""What `cost` promises is what a library has that is built so, and what the kernel counts."""

import shutil
from pathlib import Path

import pytest

from samepage.analysis.cost import Cost, cost_of
from samepage.analysis.savings import Saving
from samepage.elf.object import DynamicObject
from tests.analysis.test_cost import both
from tests.linker.workshop import Workshop

FUNCTIONS, VARIABLES = 1500, 1000
SYMBOLIC, NOW = "-Wl,-Bsymbolic-functions", "-Wl,-z,now"
HIDDEN, PACKED = "hidden visibility for own symbols", "-Wl,-z,pack-relative-relocs"
PRELINKED = "prelinking to a fixed base address"


def source(visibility: str = "") -> str:
    """Functions that call each other, pointers to them, and variables that are read."""
    numbers = range(FUNCTIONS)
    head = "".join(f"{visibility} int f{n}(int);" for n in numbers)
    head += "".join(f"{visibility} int v{n} = {n};" for n in range(VARIABLES))
    body = "".join(
        f"int f{n}(int a){{return a ? f{(7 * n + 1) % FUNCTIONS}(a - 1) : v{n % VARIABLES};}}"
        for n in numbers
    )
    table = ", ".join(f"f{n}" for n in numbers)
    return f"{head}{body} int (*table[])(int) = {{{table}}}; int data[9000] = {{1}};"


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    """The same library, built in several ways; by the change that was made."""
    if not shutil.which("gcc"):
        pytest.skip("no C compiler")
    workshop = Workshop(tmp_path_factory.mktemp("savings"))
    plain, hidden = source(), source('__attribute__((visibility("hidden")))')
    lazy = "-Wl,-z,lazy"
    built = {
        "": workshop.library("libplain.so", plain, lazy),
        SYMBOLIC: workshop.library("libsymbolic.so", plain, lazy, SYMBOLIC),
        HIDDEN: workshop.library("libhidden.so", hidden, lazy),
        NOW: workshop.library("libnow.so", plain, NOW),
        f"{NOW} {SYMBOLIC}": workshop.library("libboth.so", plain, NOW, SYMBOLIC),
        PRELINKED: workshop.library("libfixed.so", plain, lazy, "-Wl,-Ttext-segment=0x600000000"),
        f"{HIDDEN} {PACKED}": workshop.library("libpacked.so", hidden, lazy, PACKED),
    }
    return {change: cost_of(DynamicObject.open(path)) for change, path in built.items()}


def promised(cost: Cost, change: str) -> Saving:
    return next(saving for saving in cost.savings if saving.change == change)


@pytest.mark.parametrize("change", [SYMBOLIC, HIDDEN, NOW, PRELINKED])
def test_pages_are_saved_as_promised(costs: dict[str, Cost], change: str) -> None:
    before, after = costs[""], costs[change]
    assert promised(before, change).pages == before.copied - after.copied


def test_a_library_that_is_bound_at_load_keeps_its_promise(costs: dict[str, Cost]) -> None:
    before, after = costs[NOW], costs[f"{NOW} {SYMBOLIC}"]
    assert promised(before, SYMBOLIC).pages == before.copied - after.copied > 0


def test_bytes_are_saved_as_promised(costs: dict[str, Cost]) -> None:
    sizes = {change: Path(cost.path).stat().st_size for change, cost in costs.items()}
    packing = promised(costs[HIDDEN], PACKED).file_bytes
    assert abs(sizes[HIDDEN] - sizes[f"{HIDDEN} {PACKED}"] - packing) < 4096
    symbolic = promised(costs[""], SYMBOLIC).file_bytes
    assert 0 <= sizes[""] - sizes[SYMBOLIC] - symbolic < 8192


def test_what_the_kernel_counts_is_the_cost_of_each(costs: dict[str, Cost], tmp_path: Path) -> None:
    """A prelinked library lies at its own address there, and costs as much as before."""
    for change, cost in costs.items():
        directory, name = cost.path.rsplit("/", 1)
        program = Workshop(tmp_path).program(
            "extern int data[]; int f0(int); int (*p)(int) = f0; int main(){return 0;}",
            f"-L{directory}",
            f"-Wl,-rpath,{directory},--unresolved-symbols=ignore-all",
            f"-l:{name}",
        )
        [(_, real, ours)] = both(program, (name,))
        assert ours == real, change
        assert len(real) == cost.copied, change


def test_an_ifunc_keeps_its_slot(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no C compiler")
    text = (
        "static int one(void){return 1;} static void *pick(void){return one;}"
        'int f(void) __attribute__((ifunc("pick"))); int g(void){return f();}'
    )
    cost = cost_of(DynamicObject.open(Workshop(tmp_path).library("liba.so", text)))
    assert SYMBOLIC not in [saving.change for saving in cost.savings]


def test_a_copy_relocation_is_on_all_pages_of_its_variable(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no C compiler")
    workshop = Workshop(tmp_path)
    workshop.library("liba.so", "int large[9000] = {1};")
    program = workshop.program(
        "extern int large[]; int main(){return large[8999];}", "-la", "-no-pie", "-fno-pic"
    )
    cost = cost_of(DynamicObject.open(program))
    pages = [page for page in cost.pages if any(c.symbol == "large" for c in page.causes)]
    assert len(pages) in (9, 10)
