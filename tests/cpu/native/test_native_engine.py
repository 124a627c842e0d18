"""The processor itself against page tables built by hand."""

import struct
import threading
import time
from pathlib import Path

import pytest

import samepage
from samepage.arch import PAGE_SIZE, Access
from samepage.arch.x86_64.paging import Pte
from samepage.arch.x86_64.registers import Reg
from samepage.arch.x86_64.traps import Vector
from samepage.cpu.engine import EngineError, Stop
from samepage.cpu.mmu import walk
from samepage.cpu.native.control import KEY
from samepage.cpu.native.engine import NativeEngine

PROGRAM = Path(samepage.__file__).parent / "cpu/native/stub.bin"
CODE, DATA = 0x400000, 0x401000
SYSCALL = b"\x0f\x05"
LOOP = b"\xeb\xfe"


@pytest.fixture(scope="module", autouse=True)
def _host():
    try:
        NativeEngine(1 << 20, lambda address, access: False)
    except EngineError as error:
        pytest.skip(str(error))


def machine(fault=lambda address, access: False):
    """RAM with one address space: CODE -> frame 6 (r-x), DATA -> frame 7 (rw-)."""
    cpu = NativeEngine(1 << 20, fault)
    words = cpu.ram.words
    for level, (index, target) in enumerate([(0, 2), (0, 3), (2, 4)], start=1):
        words[(level << 9) + index] = target << 12 | Pte.TABLE
    words[(4 << 9) + 0] = 6 << 12 | Pte.PRESENT | Pte.USER
    words[(4 << 9) + 1] = 7 << 12 | Pte.PRESENT | Pte.USER | Pte.WRITE | Pte.NX
    context = cpu.new_context(1)
    context.activate()
    cpu.write(Reg.RIP, CODE)
    return cpu, context


def load(cpu, code, pfn=6):
    cpu.ram.frame(pfn)[: len(code)] = code


def pte(cpu, address):
    return cpu.ram.words[walk(cpu.ram.words, 1, address)]


def test_a_system_call_stops_after_the_instruction_with_its_arguments():
    cpu, _ = machine()
    load(cpu, b"\x90" + SYSCALL)
    registers = (Reg.RAX, Reg.RDI, Reg.RSI, Reg.RDX, Reg.R10, Reg.R8, Reg.R9)
    values = [0x1_0000_0000 + n for n in range(7)]
    for register, value in zip(registers, values, strict=True):
        cpu.write(register, value)
    assert cpu.run().reason is Stop.SYSCALL
    assert cpu.pc == CODE + 3
    assert cpu.syscall_arguments() == values


def test_accessed_on_read_and_dirty_only_on_write():
    cpu, _ = machine()
    load(cpu, b"\x48\x8b\x03\x0f\x05\x48\x89\x03\x0f\x05")  # mov rax,[rbx]; mov [rbx],rax
    cpu.write(Reg.RBX, DATA)
    cpu.run()
    assert pte(cpu, DATA) & Pte.ACCESSED
    assert not pte(cpu, DATA) & Pte.DIRTY
    cpu.run()
    assert pte(cpu, DATA) & Pte.DIRTY


def test_a_fault_reports_the_exact_address_and_stays_on_the_instruction():
    cpu, _ = machine()
    load(cpu, b"\x90\x48\x89\x03")
    cpu.write(Reg.RBX, 0x402008)
    stop = cpu.run()
    assert (stop.reason, stop.address, stop.access) == (Stop.PAGE_FAULT, 0x402008, Access.WRITE)
    assert cpu.pc == CODE + 1


def test_a_read_to_write_back_is_a_write():
    seen = []
    cpu, _ = machine(lambda address, access: bool(seen.append(access)))
    load(cpu, b"\x48\x83\x03\x01")  # add qword [rbx], 1
    cpu.write(Reg.RBX, 0x402008)
    cpu.run()
    assert seen == [Access.WRITE]


def test_the_access_is_done_again_once_the_page_is_mapped():
    def handler(address, access):
        cpu.ram.words[(4 << 9) + 2] = 8 << 12 | Pte.PRESENT | Pte.USER | Pte.WRITE
        return True

    cpu, _ = machine(handler)
    load(cpu, b"\x48\x89\x03\x0f\x05")
    cpu.write(Reg.RBX, 0x402008)
    cpu.write(Reg.RAX, 0x1122)
    assert cpu.run().reason is Stop.SYSCALL
    assert int.from_bytes(cpu.ram.frame(8)[8:16], "little") == 0x1122


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        (b"\x31\xc9\xf7\xf1", Vector.DIVIDE_ERROR),
        (b"\x0f\x0b", Vector.INVALID_OPCODE),
        (b"\xcc", Vector.BREAKPOINT),
        (b"\xf4", Vector.GENERAL_PROTECTION),
        (b"\xcd\x99", Vector.GENERAL_PROTECTION),
        (b"\xe4\x80", Vector.GENERAL_PROTECTION),
    ],
)
def test_exceptions_carry_their_vector(code, vector):
    cpu, _ = machine()
    load(cpu, code)
    stop = cpu.run()
    assert (stop.reason, stop.vector) == (Stop.EXCEPTION, vector)


def test_rights_that_were_taken_away_are_gone_after_a_flush_of_their_range():
    cpu, context = machine()
    load(cpu, b"\x48\x89\x03\x0f\x05\x48\x89\x03\x0f\x05")
    cpu.write(Reg.RBX, DATA + 8)
    assert cpu.run().reason is Stop.SYSCALL
    cpu.ram.words[(4 << 9) + 1] &= ~Pte.WRITE
    context.flush_tlb_range(DATA, DATA + PAGE_SIZE)
    stop = cpu.run()
    assert (stop.reason, stop.address, stop.access) == (Stop.PAGE_FAULT, DATA + 8, Access.WRITE)


def test_registers_are_saved_and_restored_with_those_of_the_fpu():
    cpu, _ = machine()
    numbers = [n for n in range(Reg.RAX, Reg.GS_BASE + 1) if n != Reg.EFLAGS]
    for number in numbers:
        cpu.write(number, 0x1000 + number)
    area = bytearray(cpu.read_fpu())
    assert len(area) == cpu.fpu_size
    area[160:176] = bytes(range(16))
    area[512] |= 2
    cpu.write_fpu(bytes(area))
    saved = cpu.save()
    for number in numbers:
        cpu.write(number, 0)
    cpu.write_fpu(bytes(cpu.fpu_size))
    saved.write(Reg.R15, 5)
    cpu.restore(saved)
    assert [cpu.read(n) for n in numbers] == [5 if n == Reg.R15 else 0x1000 + n for n in numbers]
    assert cpu.read_fpu()[160:176] == bytes(range(16))


def test_step_executes_one_instruction():
    cpu, _ = machine()
    load(cpu, b"\x90\x90\x0f\x05")
    for at in (CODE + 1, CODE + 2):
        assert cpu.step().reason is Stop.INTERRUPT
        assert cpu.pc == at
    assert cpu.step().reason is Stop.SYSCALL
    assert not (cpu.read(Reg.EFLAGS) | cpu.read(Reg.R11)) & 0x100


def test_a_breakpoint_stops_before_the_instruction_and_then_lets_it_pass():
    cpu, _ = machine()
    load(cpu, b"\x48\xff\xc0\x48\xff\xc0\xeb\xf8")  # inc rax; inc rax; jmp to the start
    cpu.add_breakpoint(CODE + 3)
    for expected in (1, 3, 5):
        stop = cpu.run()
        assert (stop.reason, stop.address) == (Stop.BREAKPOINT, CODE + 3)
        assert cpu.read(Reg.RAX) == expected
    cpu.remove_breakpoint(CODE + 3)
    load(cpu, SYSCALL)
    assert cpu.run().reason is Stop.SYSCALL


def test_interrupt_ends_an_endless_loop():
    cpu, _ = machine()
    load(cpu, LOOP)
    timer = threading.Timer(0.05, cpu.interrupt)
    timer.start()
    assert cpu.run().reason is Stop.INTERRUPT
    timer.join()
    assert cpu.pc == CODE


def test_the_time_stamp_counter_is_the_machines_clock():
    cpu, _ = machine()
    cpu.read_clock = lambda: 5 << 32 | 7
    load(cpu, b"\x0f\x31\x0f\x05\x0f\x01\xf9\x0f\x05")
    for _ in range(2):
        assert cpu.run().reason is Stop.SYSCALL
        assert (cpu.read(Reg.RAX), cpu.read(Reg.RDX)) == (7, 5)
    assert cpu.read(Reg.RCX) != 5


def test_each_context_is_an_address_space_of_its_own():
    cpu, first = machine()
    words = cpu.ram.words
    for level, (index, target) in enumerate([(0, 10), (0, 11), (2, 12)]):
        words[(9 + level << 9) + index] = target << 12 | Pte.TABLE
    words[12 << 9] = 8 << 12 | Pte.PRESENT | Pte.USER
    load(cpu, b"\xb8\x01\x00\x00\x00\x0f\x05")
    load(cpu, b"\xb8\x02\x00\x00\x00\x0f\x05", pfn=8)
    second = cpu.new_context(9)
    for context, result in ((first, 1), (second, 2), (first, 1)):
        context.activate()
        cpu.write(Reg.RIP, CODE)
        cpu.run()
        assert cpu.read(Reg.RAX) == result


def test_no_process_is_left_when_the_engine_goes():
    cpu, _ = machine()
    load(cpu, SYSCALL)
    cpu.run()
    pid = cpu._stubs[0].pid
    cpu._close()
    time.sleep(0.05)
    with pytest.raises(FileNotFoundError), open(f"/proc/{pid}/stat"):
        pass


# --- what hostile code gets ---


def test_a_32_bit_system_call_is_an_exception_on_the_instruction():
    cpu, _ = machine()
    load(cpu, b"\x90\xcd\x80")
    stop = cpu.run()
    assert (stop.reason, stop.vector) == (Stop.EXCEPTION, Vector.GENERAL_PROTECTION)
    assert cpu.pc == CODE + 1


def test_the_vsyscall_page_is_not_there():
    cpu, _ = machine()
    load(cpu, b"\xff\xd0")  # call rax
    cpu.write(Reg.RAX, 0xFFFF_FFFF_FF60_0000)
    cpu.write(Reg.RSP, DATA + 0x800)
    stop = cpu.run()
    assert (stop.reason, stop.address, stop.access) == (
        Stop.PAGE_FAULT,
        0xFFFF_FFFF_FF60_0000,
        Access.EXECUTE,
    )
    assert (cpu.pc, cpu.read(Reg.RSP)) == (0xFFFF_FFFF_FF60_0000, DATA + 0x7F8)


@pytest.mark.parametrize("number", [0, 1, 9, 11, 15, 39, 57, 59, 231])
def test_a_jump_to_the_stubs_own_system_call_makes_none(number):
    cpu, _ = machine()
    load(cpu, SYSCALL)
    cpu.run()
    code = PROGRAM.read_bytes()
    gates = [at for at in range(0x78, len(code) - 1) if code[at : at + 2] == SYSCALL]
    assert len(gates) > 5
    for gate in gates[-4:]:
        load(cpu, b"\xff\xe3")  # jmp rbx
        base = cpu._active.stub.base
        cpu.write(Reg.RIP, CODE)
        cpu.write(Reg.RBX, base + gate)
        cpu.write(Reg.RAX, number)
        for register in (Reg.RDI, Reg.RSI, Reg.RDX, Reg.R10, Reg.R8, Reg.R9):
            cpu.write(register, 3)
        stop = cpu.run()
        assert (stop.reason, stop.access) == (Stop.PAGE_FAULT, Access.EXECUTE), hex(gate)
        assert base <= stop.address < base + PAGE_SIZE
        assert cpu.pc == stop.address


def test_the_key_is_gone_before_the_guest_executes():
    cpu, _ = machine()
    load(cpu, SYSCALL)
    cpu.run()
    assert cpu._words[KEY] == 0


def test_a_stub_moves_away_when_the_guest_comes_near():
    cpu, context = machine()
    load(cpu, b"\x48\x8b\x03" + SYSCALL)
    cpu.run()
    base = context.stub.base
    cpu.write(Reg.RIP, CODE)
    cpu.write(Reg.RBX, base - PAGE_SIZE)
    stop = cpu.run()
    assert (stop.reason, stop.address) == (Stop.PAGE_FAULT, base - PAGE_SIZE)
    assert context.stub.base != base
    cpu.write(Reg.RBX, DATA)
    assert cpu.run().reason is Stop.SYSCALL


def test_vector_registers_are_the_processors():
    cpu, _ = machine()
    load(cpu, b"\x66\x0f\xef\xc0\x66\x0f\x76\xc0" + SYSCALL)  # pxor; pcmpeqd xmm0, xmm0
    cpu.run()
    area = cpu.read_fpu()
    assert area[160:176] == b"\xff" * 16
    assert struct.unpack_from("<I", area, 464)[0] == 0x46505853
