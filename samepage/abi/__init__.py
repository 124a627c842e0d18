"""The numbers that Linux's uapi and the psABI fix, each defined once.

A module has the name of the header or of the subject that the numbers belong to. They are
plain ints in classes, not enumerations: the kernel tests and combines them on every call, and
making an enumeration costs start-up time. A number that is here is used by more than one
module; one that a single system call interprets is defined beside it. Nothing here imports
another part of samepage.
"""
