"""Flags of open and of the `*at` calls (include/uapi/linux/fcntl.h and its asm-generic/fcntl.h),
where Python's `os` and `fcntl` have none.
"""

AT_FDCWD = -100
"""In place of a directory's descriptor: the working directory."""

AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200
AT_EACCESS = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000

O_LARGEFILE = 0o100000
O_TMPFILE = 0o20000000
"""`__O_TMPFILE`: O_TMPFILE without O_DIRECTORY, which is part of the header's value."""

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
"""Flags of renameat2 (include/uapi/linux/fs.h)."""

SPLICE_F_NONBLOCK = 2
