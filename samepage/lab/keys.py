"""Which process of a group is which: pids differ between two kernels, places do not."""

Key = tuple[int, ...]
"""The number of the program in the group, then which child of which child it is, counted
in the order of their forks: `(1,)` is the second program, `(0, 2)` the first one's third
child."""


def describe_key(key: Key) -> str:
    """A key for people: `program 2`, `program 1, child 3`."""
    program = f"program {key[0] + 1}"
    if len(key) == 1:
        return program
    return f"{program}, child {'.'.join(str(part + 1) for part in key[1:])}"
