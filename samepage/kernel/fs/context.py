"""The caller of a file operation: its credentials, and where its path walks start."""

import errno
import stat

from samepage.kernel.errors import SysError
from samepage.kernel.fs.inode import Inode
from samepage.kernel.fs.path import Path
from samepage.records import field, record, replace

MAY_EXEC = 1
MAY_WRITE = 2
MAY_READ = 4


@record(frozen=True)
class Credentials:
    """`struct cred`: the real, effective, saved and file-system ids."""

    uid: int = 0
    euid: int = 0
    suid: int = 0
    fsuid: int = 0
    gid: int = 0
    egid: int = 0
    sgid: int = 0
    fsgid: int = 0
    groups: tuple[int, ...] = ()

    @classmethod
    def of_user(cls, uid: int, gid: int, groups: tuple[int, ...] = ()) -> "Credentials":
        """All ids of a kind the same."""
        return cls(uid, uid, uid, uid, gid, gid, gid, gid, groups)

    @property
    def privileged(self) -> bool:
        """Has CAP_DAC_OVERRIDE and its like; in the model that is root's alone."""
        return self.fsuid == 0

    def in_group(self, gid: int) -> bool:
        """`in_group_p`."""
        return gid == self.fsgid or gid in self.groups

    def owns(self, inode: Inode) -> bool:
        """`inode_owner_or_capable`."""
        return self.privileged or self.fsuid == inode.uid

    def may(self, inode: Inode, mask: int) -> bool:
        """Whether `mask` (MAY_*) is granted (`generic_permission`)."""
        mode = inode.mode
        if self.privileged:
            return not (mask & MAY_EXEC) or stat.S_ISDIR(mode) or bool(mode & 0o111)
        if self.fsuid == inode.uid:
            mode >>= 6
        elif self.in_group(inode.gid):
            mode >>= 3
        return mask & mode & 7 == mask

    def require(self, inode: Inode, mask: int) -> None:
        """Raise `SysError(EACCES)` unless `mask` is granted (`inode_permission`)."""
        if not self.may(inode, mask):
            raise SysError(errno.EACCES)

    def for_access(self) -> "Credentials":
        """The credentials that `access(2)` uses: the real ids (`access_override_creds`)."""
        return replace(self, fsuid=self.uid, fsgid=self.gid)


@record
class FsContext:
    """`struct fs_struct`, and the credentials: what a path means to a process."""

    root: Path
    cwd: Path
    umask: int = 0o022
    cred: Credentials = field(default_factory=Credentials)

    def copy(self) -> "FsContext":
        """What a child gets (`copy_fs_struct`)."""
        return replace(self)
