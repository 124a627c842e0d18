"""The model machine: hardware booted with the kernel."""


class Machine:
    """A machine with RAM, one CPU and a kernel of Linux's rules."""
