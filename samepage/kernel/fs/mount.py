"""A mounted file system, as /proc/mounts and /proc/PID/mountinfo list it."""

from samepage.kernel.fs.path import Path
from samepage.records import record


@record(frozen=True)
class Mount:
    """`root` is the Path that covers the mount point; its `mount_id` is this mount's."""

    root: Path
    type_name: str
