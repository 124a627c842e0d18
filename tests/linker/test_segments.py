"""Which segments ld.so maps, and which it refuses: the real one is asked for each."""

import subprocess
from collections.abc import Callable

import pytest

from samepage.analysis.cost import PageState, cost_of
from samepage.elf.object import DynamicObject
from samepage.linker.errors import LinkError
from samepage.linker.rules import rules_for
from samepage.linker.segments import plan
from samepage.verify.linking import Comparison, compare
from tests.linker.editing import PF_W, Segment, edit_loads, poke
from tests.linker.workshop import Workshop

Agree = Callable[..., Comparison]
Loads = list[Segment]

LIBRARY = "int data = 3; int bss[3000]; int *p = &data; int f(void){return *p;}"
PROGRAM = "int f(void); int main(){return f();}"


@pytest.fixture
def pair(workshop: Workshop) -> tuple[str, str]:
    """A library and a program that uses it."""
    library = workshop.library("liba.so", LIBRARY)
    return library, workshop.program(PROGRAM, "-la")


def _writable(loads: Loads) -> Segment:
    return next(load for load in loads if load.flags & PF_W)


def _align(value: int) -> Callable[[Loads], None]:
    def edit(loads: Loads) -> None:
        for load in loads:
            load.align = value

    return edit


def _swap(one: int, other: int) -> Callable[[Loads], None]:
    def edit(loads: Loads) -> None:
        loads[one], loads[other] = loads[other], loads[one]

    return edit


def _shrink(loads: Loads) -> None:
    for load in loads:
        load.memsz = load.filesz - 8


def _grow(gigabytes: int) -> Callable[[Loads], None]:
    def edit(loads: Loads) -> None:
        _writable(loads).memsz = gigabytes << 30

    return edit


def _shift(loads: Loads) -> None:
    loads[-1].vaddr += 16


def _swap_last(loads: Loads) -> None:
    loads.insert(-1, loads.pop())


@pytest.mark.parametrize(
    "edit",
    [
        *map(_align, (0, 1, 0x800, 0x3000, 0x10000, 0x200000, 1 << 34)),
        _swap(1, 2),
        _swap(0, 1),
        _shrink,
        _grow(3),
        _grow(5),
        _grow(16),
    ],
)
def test_what_ldso_maps(pair: tuple[str, str], agree: Agree, edit: Callable[[Loads], None]) -> None:
    library, program = pair
    edit_loads(library, edit)
    assert subprocess.run([program], check=False).returncode == 3
    agree(program)


@pytest.mark.parametrize("edit", [_shift, _grow(1 << 18), _swap_last])
def test_what_ldso_does_not_map(
    pair: tuple[str, str], needs_ptrace: None, edit: Callable[[Loads], None]
) -> None:
    library, program = pair
    edit_loads(library, edit)
    found = compare(program, {}, bind_now=True)
    assert found.theirs
    assert found.ours
    assert found.agrees, found


@pytest.mark.parametrize(
    ("layout", "offset", "value"), [("<Q", 40, 1 << 40), ("<H", 62, 60000), ("<H", 58, 1)]
)
def test_section_headers_do_not_matter(
    pair: tuple[str, str], agree: Agree, layout: str, offset: int, value: int
) -> None:
    library, program = pair
    copied = cost_of(DynamicObject.open(library)).copied
    poke(library, layout, offset, value)
    agree(program)
    assert cost_of(DynamicObject.open(library)).copied == copied


def test_a_hash_table_that_was_removed_has_no_symbols(
    pair: tuple[str, str], needs_ptrace: None
) -> None:
    library, program = pair
    subprocess.run(["strip", "--remove-section=.gnu.hash", library], check=True)
    found = compare(program, {}, bind_now=True)
    assert found.agrees
    assert "undefined symbol" in found.theirs


def test_a_run_path_has_no_limit(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", LIBRARY)
    places = ":".join(f"/nix/store/{number:0200}/lib" for number in range(320))
    path = workshop.build(
        "program", PROGRAM, "-L.", "-la", f"-Wl,-rpath,{places}:{workshop.directory}"
    )
    assert len(places) > 1 << 16
    agree(path)


def test_a_segment_of_gigabytes_costs_what_it_costs(pair: tuple[str, str]) -> None:
    library, _ = pair
    before = cost_of(DynamicObject.open(library))
    edit_loads(library, _grow(16))
    after = cost_of(DynamicObject.open(library))
    assert after.copied == before.copied
    assert after.count(PageState.ANONYMOUS) > (16 << 30 >> 12) - 10
    assert len(after.pages) < 100


def test_alignment_by_version(pair: tuple[str, str]) -> None:
    """Before glibc 2.35 p_align had to be right, and was not kept to."""
    library, _ = pair
    old, new = rules_for((2, 34)), rules_for((2, 35))
    edit_loads(library, _align(0x10000))
    found = DynamicObject.open(library)
    assert plan(found, new, "a").align == 0x10000
    with pytest.raises(LinkError, match="address/offset not properly aligned"):
        plan(found, old, "a")
    edit_loads(library, _align(0x800))
    found = DynamicObject.open(library)
    assert plan(found, new, "a").align == 0x800
    with pytest.raises(LinkError, match="alignment not page-aligned"):
        plan(found, old, "a")
