"""A name of a file: Linux's dentry and vfsmount in one.

Which names a directory has is the directory inode's matter; a `Path` only remembers that a
name was walked to, from where, and to which inode. So one directory that is visible in two
places (a bind mount of the host) has two Paths, each with its own `..`, but one content.
A rename moves the Path, so that a process whose working directory is inside follows.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.inode import Inode


class Path:
    """`name` within the directory `parent`; the root and anonymous files have no parent.

    `children` is a cache, valid where the child's inode is still the one that the directory
    names. `mounted` is the root of a file system that covers this place. `deleted` is set
    by unlink.
    """

    __slots__ = ("children", "deleted", "inode", "mount_id", "mounted", "name", "parent")

    def __init__(
        self, inode: Inode, name: bytes = b"/", parent: Path | None = None, mount_id: int = 1
    ) -> None:
        self.inode = inode
        self.name = name
        self.parent = parent
        self.children: dict[bytes, Path] = {}
        self.mounted: Path | None = None
        self.deleted = False
        self.mount_id = mount_id

    def child(self, name: bytes) -> Path | None:
        """The Path of an entry, a mounted root if something is mounted on it, or None."""
        inode = self.inode.lookup(name)
        if inode is None:
            return None
        known = self.children.get(name)
        if known is None or known.inode is not inode or known.deleted:
            known = Path(inode, name, self, self.mount_id)
            self.children[name] = known
        return known.mounted or known

    def is_below(self, ancestor: Path) -> bool:
        """Whether this is `ancestor` or lies in it."""
        at: Path | None = self
        while at is not None:
            if at is ancestor:
                return True
            at = at.parent
        return False

    def move(self, parent: Path, name: bytes) -> None:
        """Take another place in the tree (`d_move`)."""
        if self.parent is not None:
            self.parent.children.pop(self.name, None)
        self.parent, self.name = parent, name
        parent.children[name] = self
