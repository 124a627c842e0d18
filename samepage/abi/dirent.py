"""Entries of a directory as getdents64 returns them (include/linux/dirent.h)."""

import struct

DIRENT64 = struct.Struct("<QqHB")
"""`struct linux_dirent64` up to its name: inode, cookie of the next entry, length of this
record, and type. The name follows, with its NUL, padded to 8 bytes."""
