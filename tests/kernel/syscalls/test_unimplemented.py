"""System calls that the model does not have answer ENOSYS, and are counted by their names."""

import errno

from samepage import Machine
from tests.kernel.programs import ENVIRONMENT

CALLS = 'for (294, 294, 254) { print syscall($_, 0, 0, 0), " ", $! + 0, "\\n" }'
"""inotify_init1 twice, and inotify_add_watch."""


def test_inotify_is_refused_and_counted() -> None:
    machine = Machine("1G", timeout=60)
    guest = machine.spawn(["perl", "-e", CALLS], env=ENVIRONMENT)
    assert machine.run(guest) == 0
    assert guest.stdout.decode().splitlines() == [f"-1 {errno.ENOSYS}"] * 3
    assert machine.unimplemented_syscalls == {"inotify_init1": 2, "inotify_add_watch": 1}
