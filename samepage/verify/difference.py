"""A difference between model and kernel, and how both sides describe it."""

import enum
from dataclasses import dataclass


class DifferenceKind(enum.Enum):
    """What differs, in the order in which they are reported: causes before consequences."""

    END = "end"
    PROCESS = "process"
    VMA = "VMA"
    PRESENT = "present page"
    LABEL = "label"
    FRAME = "frame"
    DIRTY = "dirty"
    SUMS = "smaps sums"
    KERNEL_SUMS = "the kernel's own smaps"
    MINOR_FAULTS = "minor faults"
    MAJOR_FAULTS = "major faults"


PAGE_KINDS = frozenset(
    {
        DifferenceKind.PROCESS,
        DifferenceKind.VMA,
        DifferenceKind.PRESENT,
        DifferenceKind.LABEL,
        DifferenceKind.FRAME,
        DifferenceKind.DIRTY,
        DifferenceKind.SUMS,
        DifferenceKind.KERNEL_SUMS,
    }
)
"""The kinds in which memory differs; in the others only the way to it does."""


@dataclass(slots=True, frozen=True)
class Difference:
    """One thing that differs.

    `process` is the position of the process in the group, `address` where it is (0 if it is
    nowhere in particular); `model` and `kernel` are the two stories, one line each.
    """

    kind: DifferenceKind
    process: int
    address: int
    model: str
    kernel: str
