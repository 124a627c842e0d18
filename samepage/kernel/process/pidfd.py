"""pidfds: a process as a file (kernel/pid.c, fs/pidfs.c)."""

import os

from samepage.abi.poll import POLLHUP, POLLIN, POLLRDNORM
from samepage.kernel.fs.anonymous import anonymous_path
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Superblock
from samepage.kernel.process.task import Process


class PidFd(OpenFile):
    """An open pidfd. It means its process even when the number is used again."""

    seekable = False
    pollable = True

    def __init__(self, sb: Superblock, process: Process, flags: int) -> None:
        super().__init__(anonymous_path(sb, b"pidfd"), os.O_RDWR | flags & os.O_NONBLOCK)
        self.process = process

    def poll(self) -> int:
        """Readable once the process has exited, hung up once it was waited for."""
        if self.process.exit_status is None:
            return 0
        reaped = self.process.kernel.processes.get(self.process.pid) is not self.process
        return POLLIN | POLLRDNORM | (POLLHUP if reaped else 0)
