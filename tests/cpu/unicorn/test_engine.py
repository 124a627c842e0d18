"""The CPU against page tables built by hand."""

import struct
import threading

import pytest

from samepage.arch import PAGE_SIZE, Access
from samepage.arch.x86_64.paging import Pte
from samepage.arch.x86_64.registers import Reg
from samepage.arch.x86_64.traps import Vector
from samepage.cpu.engine import Stop
from samepage.cpu.mmu import walk
from samepage.cpu.unicorn.engine import UnicornEngine

CODE = 0x400000
DATA = 0x401000


def machine(fault=lambda address, access: False):
    """RAM with one address space: CODE -> frame 6 (r-x), DATA -> frame 7 (rw-)."""
    cpu = UnicornEngine(1 << 20, fault)
    ram = cpu.ram
    for level, (index, target) in enumerate([(0, 2), (0, 3), (2, 4)], start=1):
        ram.words[(level << 9) + index] = target << 12 | Pte.TABLE
    ram.words[(4 << 9) + 0] = 6 << 12 | Pte.PRESENT | Pte.USER
    ram.words[(4 << 9) + 1] = 7 << 12 | Pte.PRESENT | Pte.USER | Pte.WRITE | Pte.NX
    cpu.new_context(1).activate()
    cpu.write(Reg.RIP, CODE)
    return ram, cpu


def load(ram, code, pfn=6):
    ram.frame(pfn)[: len(code)] = code


def pte(ram, address):
    return ram.words[walk(ram.words, 1, address)]


def test_walk_finds_entries_and_missing_tables():
    ram, _ = machine()
    assert walk(ram.words, 1, DATA) == (4 << 9) + 1
    assert walk(ram.words, 1, 1 << 39) == 0
    assert walk(ram.words, 1, 0x800000) == 0


def test_syscall_stops_after_the_instruction():
    ram, cpu = machine()
    load(ram, b"\x0f\x05")
    assert cpu.run().reason is Stop.SYSCALL
    assert cpu.pc == CODE + 2


def test_accessed_on_read_and_dirty_only_on_write():
    ram, cpu = machine()
    load(ram, b"\x48\x8b\x03\x0f\x05\x48\x89\x03\x0f\x05")  # mov rax,[rbx]; mov [rbx],rax
    cpu.write(Reg.RBX, DATA)
    assert not pte(ram, DATA) & Pte.ACCESSED
    cpu.run()
    assert pte(ram, DATA) & Pte.ACCESSED
    assert not pte(ram, DATA) & Pte.DIRTY
    cpu.run()
    assert pte(ram, DATA) & Pte.DIRTY


def test_fault_reports_address_access_and_leaves_pc_on_the_instruction():
    ram, cpu = machine()
    load(ram, b"\x90\x48\x89\x03")
    cpu.write(Reg.RBX, 0x402008)
    stop = cpu.run()
    assert (stop.reason, stop.address, stop.access) == (Stop.PAGE_FAULT, 0x402008, Access.WRITE)
    assert cpu.pc == CODE + 1


def test_fault_handler_can_map_the_page_and_the_access_is_done_again():
    def handler(address, access):
        ram.words[(4 << 9) + 2] = 8 << 12 | Pte.PRESENT | Pte.USER | Pte.WRITE
        return True

    ram, cpu = machine(handler)
    load(ram, b"\x48\x89\x03\x0f\x05")
    cpu.write(Reg.RBX, 0x402008)
    cpu.write(Reg.RAX, 0x1122)
    assert cpu.run().reason is Stop.SYSCALL
    assert int.from_bytes(ram.frame(8)[8:16], "little") == 0x1122


def test_execution_of_a_page_without_the_right_faults():
    _, cpu = machine()
    cpu.write(Reg.RIP, DATA)
    stop = cpu.run()
    assert (stop.reason, stop.access, stop.address) == (Stop.PAGE_FAULT, Access.EXECUTE, DATA)


def test_exceptions_carry_their_vector():
    ram, cpu = machine()
    load(ram, b"\x31\xc9\xf7\xf1")  # xor ecx,ecx; div ecx
    stop = cpu.run()
    assert (stop.reason, stop.vector) == (Stop.EXCEPTION, Vector.DIVIDE_ERROR)
    ram, cpu = machine()
    load(ram, b"\x0f\x0b")  # ud2
    stop = cpu.run()
    assert (stop.reason, stop.vector) == (Stop.EXCEPTION, Vector.INVALID_OPCODE)


def test_code_in_a_reused_frame_is_translated_anew_after_flush_icache():
    ram, cpu = machine()
    load(ram, b"\xb8\x01\x00\x00\x00\x0f\x05")  # mov eax,1; syscall
    cpu.run()
    assert cpu.read(Reg.RAX) == 1
    assert 6 in cpu.code_frames
    cpu.flush_icache(6)
    load(ram, b"\xb8\x02\x00\x00\x00\x0f\x05")
    cpu.write(Reg.RIP, CODE)
    cpu.run()
    assert cpu.read(Reg.RAX) == 2


def test_the_tlb_grows_for_a_program_that_goes_over_many_pages():
    pages, rounds = 2048, 100
    ram, cpu = machine()
    first, last = 0x600000, 0x600000 + pages * PAGE_SIZE
    for table in range(pages // 512):
        ram.words[(3 << 9) + (first >> 21) + table] = 16 + table << 12 | Pte.TABLE
        for entry in range(512):
            ram.words[(16 + table << 9) + entry] = 7 << 12 | Pte.PRESENT | Pte.USER | Pte.NX
    code = (
        b"\x48\xc7\xc1" + struct.pack("<I", rounds),  # mov rcx, rounds
        b"\x48\xc7\xc0" + struct.pack("<I", first),  # outer: mov rax, first
        b"\x8a\x10",  # inner: mov dl, [rax]
        b"\x48\x05" + struct.pack("<I", PAGE_SIZE),  # add rax, 4096
        b"\x48\x3d" + struct.pack("<I", last),  # cmp rax, last
        b"\x72\xf0",  # jb inner
        b"\x48\xff\xc9",  # dec rcx
        b"\x75\xe4",  # jnz outer
        b"\x0f\x05",  # syscall
    )
    load(ram, b"".join(code))
    stop = cpu.run()
    while stop.reason is Stop.PAUSE:
        stop = cpu.run()
    assert stop.reason is Stop.SYSCALL
    assert (cpu.read(Reg.RAX), cpu.read(Reg.RDX) & 0xFF) == (last, ram.frame(7)[0])
    assert cpu.tlb_fills < 10 * pages


def test_jump_to_null_is_a_page_fault():
    ram, cpu = machine()
    load(ram, b"\x31\xc0\xff\xe0")  # xor eax,eax; jmp rax
    stop = cpu.run()
    assert (stop.reason, stop.address, stop.access) == (Stop.PAGE_FAULT, 0, Access.EXECUTE)


def test_budget_ends_an_endless_loop():
    ram, cpu = machine()
    load(ram, b"\xeb\xfe")
    assert cpu.run(max_instructions=1000).reason is Stop.INTERRUPT
    assert cpu.pc == CODE


def test_a_port_access_stops_before_what_follows():
    ram, cpu = machine()
    load(ram, b"\xe4\x80\x48\xff\xc3\x48\x89\x19\x48\xff\xc3\x0f\x05")
    cpu.write(Reg.RCX, DATA)  # in al, 0x80; inc rbx; mov [rcx], rbx; inc rbx; syscall
    for _ in range(2):
        stop = cpu.run()
        assert (stop.reason, stop.vector) == (Stop.EXCEPTION, Vector.GENERAL_PROTECTION)
        assert (cpu.pc, cpu.read(Reg.RBX), ram.words[7 << 9]) == (CODE, 0, 0)
    cpu.write(Reg.RIP, CODE + 2)
    assert cpu.run().reason is Stop.SYSCALL
    assert (cpu.read(Reg.RBX), ram.words[7 << 9]) == (2, 1)


LOOP = b"\x48\xff\xc0\x48\x83\x03\x01\xeb\xf7"
"""inc rax; add qword [rbx], 1; jmp to the start: it never needs the kernel."""


@pytest.mark.parametrize("watched", ["", "breakpoint", "limit"])
def test_a_stop_from_another_thread_is_between_instructions(watched):
    ram, cpu = machine()
    load(ram, LOOP)
    cpu.write(Reg.RBX, DATA)
    if watched == "breakpoint":
        cpu.add_breakpoint(CODE + 0x800)
    done = threading.Event()

    def stop_often():
        while not done.wait(0.0003):
            cpu.interrupt()

    thread = threading.Thread(target=stop_often)
    thread.start()
    try:
        for _ in range(500):
            assert cpu.run(10**12 if watched == "limit" else 0).reason is Stop.INTERRUPT
            added = {CODE: 0, CODE + 3: 1, CODE + 7: 0}[cpu.pc]
            assert cpu.read(Reg.RAX) == ram.words[7 << 9] + added
    finally:
        done.set()
        thread.join()


def looped():
    """A machine that has executed LOOP for a while, without a limit."""
    ram, cpu = machine()
    load(ram, LOOP)
    cpu.write(Reg.RBX, DATA)
    timer = threading.Timer(0.05, cpu.interrupt)
    timer.start()
    cpu.run()
    timer.join()
    return ram, cpu


def test_instructions_are_counted_in_code_that_ran_uncounted():
    _, cpu = looped()
    cpu.write(Reg.RIP, CODE)
    cpu.write(Reg.RAX, 0)
    for count, at, total in ((1, CODE + 3, 1), (1, CODE + 7, 1), (5, CODE + 3, 3)):
        assert cpu.run(count).reason is Stop.INTERRUPT
        assert (cpu.pc, cpu.read(Reg.RAX), cpu.executed) == (at, total, count)


def test_a_breakpoint_counts_in_code_that_ran_without():
    ram, cpu = looped()
    cpu.add_breakpoint(CODE + 7)
    assert cpu.run().reason is Stop.BREAKPOINT
    assert cpu.pc == CODE + 7
    assert cpu.read(Reg.RAX) == ram.words[7 << 9]
    cpu.remove_breakpoint(CODE + 7)


def other_space(ram, pfn=8):
    """A second address space, whose top table is frame 9: CODE -> `pfn`."""
    for level, (index, target) in enumerate([(0, 10), (0, 11), (2, 12)]):
        ram.words[(9 + level << 9) + index] = target << 12 | Pte.TABLE
    ram.words[12 << 9] = pfn << 12 | Pte.PRESENT | Pte.USER
    return 9


def test_each_context_is_an_address_space_of_its_own():
    ram, cpu = machine()
    load(ram, b"\xb8\x01\x00\x00\x00\x0f\x05")  # mov eax, 1; syscall
    load(ram, b"\xb8\x02\x00\x00\x00\x0f\x05", pfn=8)
    first = cpu.new_context(1)
    second = cpu.new_context(other_space(ram))
    for context, result in ((first, 1), (second, 2), (first, 1)):
        context.activate()
        cpu.write(Reg.RIP, CODE)
        cpu.run()
        assert cpu.read(Reg.RAX) == result


def test_a_context_whose_top_table_is_used_again_is_another_one():
    ram, cpu = machine()
    load(ram, b"\xb8\x01\x00\x00\x00\x0f\x05")
    load(ram, b"\xb8\x02\x00\x00\x00\x0f\x05", pfn=8)
    old = cpu.new_context(1)
    old.activate()
    cpu.run()
    old.release()
    ram.words[4 << 9] = 8 << 12 | Pte.PRESENT | Pte.USER
    cpu.new_context(1).activate()
    cpu.write(Reg.RIP, CODE)
    cpu.run()
    assert cpu.read(Reg.RAX) == 2


def test_rights_that_were_taken_away_are_gone_after_a_flush_of_their_range():
    ram, cpu = machine()
    load(ram, b"\x48\x89\x03\x0f\x05\x48\x89\x03\x0f\x05")  # mov [rbx], rax; syscall; again
    context = cpu.new_context(1)
    context.activate()
    cpu.write(Reg.RBX, DATA + 8)
    assert cpu.run().reason is Stop.SYSCALL
    ram.words[(4 << 9) + 1] &= ~Pte.WRITE
    context.flush_tlb_range(DATA, DATA + PAGE_SIZE)
    stop = cpu.run()
    assert (stop.reason, stop.address, stop.access) == (Stop.PAGE_FAULT, DATA + 8, Access.WRITE)


def test_a_flush_of_another_page_in_a_fault_pauses_before_the_instruction():
    pages = []

    def handler(address, access):
        pages.append(address >> 12)
        ram.words[(4 << 9) + 2] = 8 << 12 | Pte.PRESENT | Pte.USER | Pte.WRITE
        context.flush_tlb_range(DATA, DATA + PAGE_SIZE)
        return True

    ram, cpu = machine(handler)
    context = cpu.new_context(1)
    context.activate()
    load(ram, b"\x48\x89\x03\x0f\x05")
    cpu.write(Reg.RBX, 0x402008)
    assert cpu.run().reason is Stop.PAUSE
    assert (cpu.pc, ram.words[8 << 9 | 1]) == (CODE, 0)
    assert cpu.run().reason is Stop.SYSCALL
    assert pages == [0x402]


def test_registers_are_saved_and_restored_with_those_of_the_fpu():
    _, cpu = machine()
    numbers = range(Reg.RAX, Reg.GS_BASE + 1)
    values = {n: 0x1000 + n for n in numbers if n != Reg.EFLAGS}
    for number, value in values.items():
        cpu.write(number, value)
    area = bytearray(cpu.read_fpu())
    assert len(area) == cpu.fpu_size
    area[160:176] = bytes(range(16))
    cpu.write_fpu(bytes(area))
    saved = cpu.save()
    for number in values:
        cpu.write(number, 0)
    cpu.write_fpu(bytes(cpu.fpu_size))
    assert saved.read(Reg.R15) == values[Reg.R15]
    saved.write(Reg.R15, 5)
    cpu.restore(saved)
    assert {n: cpu.read(n) for n in values} == values | {Reg.R15: 5}
    assert cpu.read_fpu() == bytes(area)


def test_step_executes_one_instruction():
    ram, cpu = machine()
    load(ram, b"\x90\x90\x0f\x05")
    for at in (CODE + 1, CODE + 2):
        assert cpu.step().reason is Stop.INTERRUPT
        assert cpu.pc == at
    assert cpu.step().reason is Stop.SYSCALL


def test_an_access_that_is_not_canonical_is_a_general_protection_fault():
    ram, cpu = machine(lambda address, access: pytest.fail("the kernel was asked"))
    load(ram, b"\x48\x8b\x03")
    cpu.write(Reg.RBX, 1 << 47)
    stop = cpu.run()
    assert (stop.reason, stop.vector, cpu.pc) == (Stop.EXCEPTION, Vector.GENERAL_PROTECTION, CODE)
    cpu.write(Reg.RBX, 0xFFFF_8000_0000_0008)
    stop = cpu.run()
    assert (stop.reason, stop.address) == (Stop.PAGE_FAULT, 0xFFFF_8000_0000_0008)


def test_a_software_interrupt_is_a_general_protection_fault_on_the_instruction():
    ram, cpu = machine()
    load(ram, b"\x90\xcd\x80")  # nop; int 0x80
    stop = cpu.run()
    assert (stop.reason, stop.vector) == (Stop.EXCEPTION, Vector.GENERAL_PROTECTION)
    assert cpu.pc == CODE + 1


def test_rdpid_reads_the_number_of_the_only_cpu():
    ram, cpu = machine()
    load(ram, b"\xf3\x0f\xc7\xfa\x0f\x05")  # rdpid rdx; syscall
    cpu.write(Reg.RDX, 5)
    stop = cpu.run()
    while stop.reason is Stop.PAUSE:
        stop = cpu.run()
    assert (stop.reason, cpu.read(Reg.RDX)) == (Stop.SYSCALL, 0)


def test_registers_of_another_engine_are_refused():
    _, cpu = machine()
    with pytest.raises(AssertionError, match="another engine"):
        cpu.restore(object())
