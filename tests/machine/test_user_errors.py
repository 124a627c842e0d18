"""What a Python user gets wrong is reported in one line, as a `SamepageError`."""

from collections.abc import Callable
from typing import Any

import pytest

import samepage
from samepage import Machine, SamepageError, StopAt


def test_a_stop_can_be_named_and_an_address_given_alone() -> None:
    machine = Machine(ram="64M")
    guest = machine.spawn(["/bin/true"])
    assert machine.run(guest, until="entry") is None
    entry = guest.pc
    assert machine.run(guest, until="main") is None
    assert guest.pc != entry
    following = guest.pc + _length_of_first_instruction(machine, guest)
    assert machine.run(guest, until=following) is None
    assert guest.pc == following
    assert machine.run(guest, until=StopAt.EXIT) == 0


def _length_of_first_instruction(machine: Machine, guest: Any) -> int:
    before = guest.pc
    machine.kernel.cpu.run(1)
    return int(guest.pc - before)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda m, g: m.run(g, until="start"), "'start': it is one of entry, main, exit"),
        (lambda m, g: Machine(ram="64M").run(g), "is not on this machine"),
        (lambda m, g: Machine(ram="64M").discard(g), "is not on this machine"),
        (lambda m, g: m.spawn("true"), "write ['true']"),
        (lambda m, g: m.spawn(["cat"], stdin="text"), "stdin is bytes"),
        (lambda m, g: Machine(ram=1.5), "is not a size"),
        (lambda m, g: Machine(ram="99999999T"), "more than a process can map"),
        (lambda m, g: Machine(timeout=0), "not above 0"),
        (lambda m, g: Machine(epoch_ns=-1), "before 1970"),
    ],
)
def test_a_mistake_is_a_samepage_error(mistake: Callable[[Any, Any], object], message: str) -> None:
    machine = Machine(ram="64M")
    guest = machine.spawn(["/bin/true"])
    with pytest.raises(SamepageError) as caught:
        mistake(machine, guest)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_program_is_discarded_once() -> None:
    machine = Machine(ram="64M")
    guest = machine.spawn(["/bin/true"])
    machine.run(guest)
    machine.discard(guest)
    with pytest.raises(SamepageError, match="was discarded"):
        machine.discard(guest)


def test_all_names_of_the_package_are_there() -> None:
    assert all(getattr(samepage, name) for name in samepage.__all__)
    assert repr(Machine(ram="64M").frame(1)).startswith("<FrameInfo 1 ")
