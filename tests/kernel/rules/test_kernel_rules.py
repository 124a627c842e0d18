"""What differs between versions of Linux: which rules a release has, and what each one changes."""

import errno

import pytest

from samepage.abi.auxv import Aux, parse_auxv
from samepage.abi.mman import Advice, MapFlags, MremapFlags, Prot
from samepage.arch import PAGE_SIZE, PMD_SIZE, Access
from samepage.cli.main import run
from samepage.cpu.unicorn.rmw import is_atomic, writes_back
from samepage.errors import SamepageError
from samepage.kernel.errors import SysError
from samepage.kernel.fs.procfs.smaps import smaps_entry
from samepage.kernel.mm.address_space import AddressSpace, vma_name
from samepage.kernel.mm.fault import handle_mm_fault
from samepage.kernel.mm.folios import FolioMap
from samepage.kernel.mm.madvise import do_madvise
from samepage.kernel.mm.mmap import do_brk, do_mmap, vm_brk_flags
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.mm.mremap import do_mremap
from samepage.kernel.mm.vma import VmFlags
from samepage.kernel.rules import KNOWN, NEWEST, KernelRules, named_rules, rules_of
from samepage.kernel.rules.changes import CHANGES, LAST_SYSCALLS
from samepage.machine import Machine
from samepage.records import fields
from tests.kernel.mm.mm_helpers import Memory, MemoryFile, numbered

LINUX_6_1, LINUX_6_12 = named_rules("6.1"), named_rules("6.12")
_RW = Prot.READ | Prot.WRITE
_ANONYMOUS = MapFlags.PRIVATE | MapFlags.ANONYMOUS
_BASE = 0x10_0000_0000


def space(rules: KernelRules, memory: Memory | None = None) -> AddressSpace:
    memory = memory or Memory()
    return AddressSpace(memory.frames, memory.cache, memory, rules=rules)


def map_at(mm: AddressSpace, address: int, pages: int, prot: int = _RW) -> int:
    return do_mmap(mm, address, pages * PAGE_SIZE, prot, _ANONYMOUS | MapFlags.FIXED)


def test_each_rule_has_the_version_that_changed_it() -> None:
    assert {*fields(KernelRules)} == {*CHANGES, "last_syscall"}
    assert rules_of("6.18.44-fc-v657") == NEWEST == named_rules("6.18")
    assert NEWEST.last_syscall == max(LAST_SYSCALLS.values())
    assert all(change.since <= (6, 18) for change in CHANGES.values())


def test_a_release_has_each_change_up_to_it() -> None:
    assert rules_of("6.1.0-57-cloud-amd64") == LINUX_6_1
    assert rules_of("6.12.117+deb12-cloud-amd64") == LINUX_6_12
    assert (LINUX_6_1.last_syscall, LINUX_6_12.last_syscall) == (450, 462)
    assert not LINUX_6_1.rseq_in_auxv
    assert LINUX_6_12.rseq_in_auxv
    assert not LINUX_6_12.mremap_moves_many
    assert LINUX_6_12.no_huge_entry_at_end_of_file, "the stable series has it"
    assert rules_of("5.15.0").last_syscall == 448
    assert rules_of("7.0") == NEWEST
    assert rules_of("strange") == NEWEST


def test_only_known_versions_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SamepageError, match=r"5\.4: there are those of 6\.1, 6\.12, 6\.18"):
        named_rules("5.4")
    assert run(["run", "-q", "--kernel", "5.4", "true"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("rules", [LINUX_6_1, LINUX_6_12])
def test_a_bss_that_ends_where_the_heap_begins(rules: KernelRules) -> None:
    mm = space(rules)
    vm_brk_flags(mm, _BASE, PAGE_SIZE)
    mm.brk.start = mm.brk.end = _BASE + PAGE_SIZE
    bss = mm.vmas.find(_BASE)
    assert bss is not None
    assert vma_name(mm, bss) == ("" if rules.heap_is_what_overlaps else "[heap]")
    do_brk(mm, _BASE + 3 * PAGE_SIZE)
    heap = mm.vmas.find(_BASE + 2 * PAGE_SIZE)
    assert heap is not None
    assert vma_name(mm, heap) == "[heap]"


@pytest.mark.parametrize(("rules", "aligned"), [(LINUX_6_1, False), (LINUX_6_12, True)])
def test_anonymous_memory_of_whole_huge_pages(rules: KernelRules, aligned: bool) -> None:
    mm = space(rules)
    do_mmap(mm, 0, PAGE_SIZE, _RW, _ANONYMOUS)
    assert (do_mmap(mm, 0, PMD_SIZE, _RW, _ANONYMOUS) % PMD_SIZE == 0) == aligned


def test_a_file_whose_place_is_aligned_already() -> None:
    places = {}
    for rules in (LINUX_6_1, LINUX_6_12):
        mm = space(rules)
        mm.mmap_base &= -PMD_SIZE
        file = MemoryFile(bytes(PMD_SIZE))
        places[rules] = mm.mmap_base - do_mmap(mm, 0, PMD_SIZE, _RW, MapFlags.PRIVATE, file)
    assert places == {LINUX_6_1: 2 * PMD_SIZE, LINUX_6_12: PMD_SIZE}


@pytest.mark.parametrize(("rules", "aligned"), [(LINUX_6_12, False), (NEWEST, True)])
def test_a_private_mapping_of_the_zero_device(rules: KernelRules, aligned: bool) -> None:
    mm = space(rules)
    do_mmap(mm, 0, PAGE_SIZE, _RW, _ANONYMOUS)
    place = do_mmap(mm, 0, PMD_SIZE, _RW, _ANONYMOUS, zero_device=True)
    assert (place % PMD_SIZE == 0) == aligned


def test_stacks_and_droppable_memory() -> None:
    old, new = space(LINUX_6_1), space(LINUX_6_12)
    for mm in (old, new):
        place = do_mmap(mm, 0, PAGE_SIZE, _RW, _ANONYMOUS | MapFlags.STACK)
        vma = mm.vmas.find(place)
        assert vma is not None
        assert bool(vma.flags & VmFlags.NOHUGEPAGE) == (mm is new)
    droppable = MapFlags.DROPPABLE | MapFlags.ANONYMOUS
    assert do_mmap(new, 0, PAGE_SIZE, _RW, droppable)
    with pytest.raises(SysError) as caught:
        do_mmap(old, 0, PAGE_SIZE, _RW, droppable)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(("rules", "vmas"), [(LINUX_6_12, 2), (NEWEST, 1)])
def test_a_written_part_beside_an_unwritten_vma(rules: KernelRules, vmas: int) -> None:
    mm = space(rules)
    map_at(mm, _BASE, 2)
    do_mprotect(mm, _BASE, PAGE_SIZE, _RW | Prot.EXEC)
    handle_mm_fault(mm, _BASE + PAGE_SIZE, Access.WRITE)
    do_mprotect(mm, _BASE + PAGE_SIZE, PAGE_SIZE, _RW | Prot.EXEC)
    assert len(mm.vmas) == vmas


def test_mremap_of_several_vmas() -> None:
    for rules in (LINUX_6_12, NEWEST):
        mm = space(rules)
        map_at(mm, _BASE, 1)
        map_at(mm, _BASE + PAGE_SIZE, 1, Prot.READ)
        moved = (_BASE, 2 * PAGE_SIZE, 2 * PAGE_SIZE, MremapFlags.MAYMOVE | MremapFlags.FIXED)
        if rules.mremap_moves_many:
            assert do_mremap(mm, *moved, 2 * _BASE) == 2 * _BASE
        else:
            with pytest.raises(SysError) as caught:
                do_mremap(mm, *moved, 2 * _BASE)
            assert caught.value.errno == errno.EFAULT


def test_guard_regions() -> None:
    for rules in (LINUX_6_12, NEWEST):
        mm = space(rules)
        map_at(mm, _BASE, 1)
        if rules.guard_regions:
            do_madvise(mm, _BASE, PAGE_SIZE, Advice.GUARD_INSTALL)
            assert mm.guards
        else:
            with pytest.raises(SysError) as caught:
                do_madvise(mm, _BASE, PAGE_SIZE, Advice.GUARD_INSTALL)
            assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(("rules", "pages"), [(LINUX_6_12, 16), (NEWEST, 32)])
def test_fault_around_at_the_edge_of_a_large_folio(rules: KernelRules, pages: int) -> None:
    memory = Memory()
    mm = space(rules, memory)
    file = MemoryFile(numbered(64))
    memory.cache.folios[file.dev, file.ino] = FolioMap([(0, 32)])
    do_mmap(mm, _BASE, 64 * PAGE_SIZE, Prot.READ, MapFlags.PRIVATE | MapFlags.FIXED, file)
    handle_mm_fault(mm, _BASE, Access.READ)
    assert sum(mm.rss) == pages


@pytest.mark.parametrize(("rules", "pages"), [(LINUX_6_1, 3), (LINUX_6_12, 1)])
def test_the_first_fault_in_the_last_folio_of_a_file(rules: KernelRules, pages: int) -> None:
    memory = Memory()
    mm = space(rules, memory)
    file = MemoryFile(numbered(4))
    memory.cache.folios[file.dev, file.ino] = FolioMap([(0, 4)])
    flags = MapFlags.PRIVATE | MapFlags.FIXED
    do_mmap(mm, _BASE, 3 * PAGE_SIZE, Prot.READ, flags, file, PAGE_SIZE)
    handle_mm_fault(mm, _BASE, Access.READ)
    assert sum(mm.rss) == pages


def test_smaps_has_a_line_of_ksm() -> None:
    for rules in (LINUX_6_1, LINUX_6_12):
        mm = space(rules)
        map_at(mm, _BASE, 1)
        (vma,) = mm.vmas
        assert ("\nKSM:" in smaps_entry(mm, vma)) == rules.smaps_shows_ksm


@pytest.mark.parametrize("version", KNOWN)
def test_a_machine_has_the_rules_of_the_version_that_is_named(version: str) -> None:
    machine = Machine("64M", kernel=version)
    guest = machine.spawn(["uname", "-r"], env={"PATH": "/bin"})
    assert machine.run(guest) == 0
    assert guest.stdout == f"{version}.0\n".encode()
    rseq = Aux.RSEQ_ALIGN in parse_auxv(guest.process.auxv)
    assert rseq == named_rules(version).rseq_in_auxv


def test_an_instruction_that_updates_memory_may_fault_twice() -> None:
    faults = []
    for splits in (False, True):
        machine = Machine("64M", splits_updates=splits)
        guest = machine.spawn(["true"], env={"PATH": "/bin"})
        assert machine.run(guest) == 0
        faults.append(guest.process.total_faults().minor)
    once, twice = faults
    assert twice > once


@pytest.mark.parametrize(
    ("code", "atomic"),
    [("8027df", False), ("f08027df", True), ("8607", True), ("488707", True), ("480107", False)],
)
def test_atomic_instructions_fault_as_a_store(code: str, atomic: bool) -> None:
    assert writes_back(bytes.fromhex(code))
    assert is_atomic(bytes.fromhex(code)) == atomic
