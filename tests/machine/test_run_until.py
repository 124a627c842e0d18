"""Stopping a program at an address or an event, and the names of instructions."""

import pytest

from samepage.elf.file import ElfFile
from samepage.elf.functions import SymbolsByAddress
from samepage.errors import SamepageError
from samepage.kernel.mm.address_space import EventKind
from samepage.kernel.process.timeline import TimelineEvent
from samepage.machine import Machine


def test_it_stops_after_the_mmap_and_before_any_page_of_it() -> None:
    machine = Machine("512M", timeline=True)
    guest = machine.spawn(["true"])

    def libc_is_mapped(record: TimelineEvent) -> bool:
        return record.event.kind is EventKind.MMAP and record.event.file.endswith("/libc.so.6")

    assert machine.run(guest, libc_is_mapped) is None
    assert guest.base_of("libc.so.6")
    assert list(guest.pages("libc.so.6")) == []
    assert machine.run(guest) == 0
    assert list(guest.pages("libc.so.6"))


def test_it_stops_before_the_instruction_and_goes_on_from_there() -> None:
    machine = Machine("512M", timeline=True)
    guest = machine.spawn(["echo", "x"])
    machine.run(guest, lambda record: record.event.file.endswith("/libc.so.6"))
    path = next(vma.name for vma in guest.vmas if vma.name.endswith("/libc.so.6"))
    start = SymbolsByAddress(ElfFile.open(path)).address("__libc_start_main")
    assert start is not None
    address = guest.base_of("libc.so.6") + start
    assert machine.run(guest, [address, 1]) is None
    assert guest.pc == address
    other = machine.spawn(["true"])
    assert machine.run(other) == 0
    assert guest.pc == address
    assert machine.run(guest) == 0
    assert guest.stdout == b"x\n"
    assert guest.pc == 0


def test_stopping_at_each_fault_changes_nothing_of_what_it_does() -> None:
    def frames(stops: bool) -> list[tuple[int, int]]:
        machine = Machine("512M", timeline=True, epoch_ns=0)
        guest = machine.spawn(["seq", "3"])
        while guest.exit_code is None:
            machine.run(guest, lambda record: stops)
        assert guest.stdout == b"1\n2\n3\n"
        return [(page.address, page.frame) for page in guest.pages()]

    assert frames(True) == frames(False)


def test_an_event_can_only_be_waited_for_where_events_are_recorded() -> None:
    machine = Machine("512M")
    with pytest.raises(SamepageError, match="timeline=True"):
        machine.run(machine.spawn(["true"]), lambda record: True)


def test_the_timeline_names_functions_and_files_that_are_unmapped_by_then() -> None:
    machine = Machine("512M", timeline=True)
    for name in ("true", "echo"):
        machine.run(machine.spawn([name]))
    snapshot = machine.snapshot()
    paths = [file.path for file in snapshot.files]
    events = snapshot.events
    libc = next(path for path in paths if path.endswith("/libc.so.6"))
    symbols = SymbolsByAddress(ElfFile.open(libc))
    named = [event for event in events if event.symbol]
    assert named
    base = machine.guests[0].base_of("libc.so.6")
    checked = 0
    for event in named:
        place = symbols.at(event.ip - base) if event.pid == machine.guests[0].pid else None
        if place is not None and event.ip > base:
            assert event.symbol == place.name
            checked += 1
    assert checked
    assert "/etc/ld.so.cache" in {paths[event.file] for event in events if event.file >= 0}
    assert all(event.ip == 0 for event in events if event.order < 5)
    first = next(event for event in events if event.pid == machine.guests[1].pid)
    assert first.ip == 0  # exec is the machine's, not the other program's
