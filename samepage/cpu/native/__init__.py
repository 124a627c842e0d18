"""The engine that lets the processor execute guests' code, in a process beside this one.

The machine's RAM is a memfd. Each address space has a *stub*: a process that maps nothing but a
page of code of its own, memory to communicate through, and those frames of the RAM that the page
table in RAM maps, with the rights of their entries. Its mappings are a TLB: they are made when
the guest faults, and dropped when the kernel takes something away. An entry that is not accessed
is not mapped, and one that is not dirty is not writable, so the bits in the table are exact.

A system call is refused by a seccomp filter (SIGSYS), a missing mapping or a right that lacks is
SIGSEGV, a trap SIGTRAP: in each case the host's kernel writes all registers into a signal frame,
which lies in memory that this process shares. So the hardware reports the address, the kind of
access and the error code; no instruction is decoded.

    engine      the `Engine`: what to do at each stop
    mappings    what of a page table is mapped in a stub
    stub        the process: starting it, the host's calls that it makes, waiting for it
    control     the memory that it shares with us: registers, and the list of calls
    filter      which system calls may pass: the isolation of the guests
    xstate      the floating-point and vector registers
    stub.s      the code, and `stub.bin`, the program made from it
"""
