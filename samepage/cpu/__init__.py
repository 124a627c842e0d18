"""The machine below the kernel: physical RAM, x86-64 page tables that lie in it, and one CPU.

The kernel decides, and the CPU obeys: it executes a guest's instructions, translates each
address by the page tables that the kernel keeps in RAM, and enters the kernel for a system call,
an exception, or a page that is not present. What runs here are real instructions of real
programs; files, processes and faults have no meaning at this level.
"""
