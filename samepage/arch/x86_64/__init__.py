"""x86-64, with four-level page tables."""

from samepage.abi.auxv import Aux
from samepage.abi.elf import ElfMachine
from samepage.arch.arch import Arch
from samepage.arch.x86_64.coredump import CORE_DUMP
from samepage.arch.x86_64.layout import LAYOUT
from samepage.arch.x86_64.paging import PAGING
from samepage.arch.x86_64.registers import REGISTERS
from samepage.arch.x86_64.sigframe import SIGNAL_FRAME
from samepage.arch.x86_64.syscalls import SYSCALLS
from samepage.arch.x86_64.traps import TRAPS

X86_64 = Arch(
    name="x86_64",
    elf_machine=ElfMachine.X86_64,
    platform=b"x86_64",
    dlinfo=(Aux.SYSINFO_EHDR, Aux.MINSIGSTKSZ),
    paging=PAGING,
    layout=LAYOUT,
    registers=REGISTERS,
    syscalls=SYSCALLS,
    signal_frame=SIGNAL_FRAME,
    core_dump=CORE_DUMP,
    traps=TRAPS,
)
