"""Numbers of userfaultfd(2) (include/uapi/linux/userfaultfd.h)."""

import struct

UFFD_API = 0xAA
UFFD_USER_MODE_ONLY = 1
"""Flag of userfaultfd(2): what a process without CAP_SYS_PTRACE may create
(vm.unprivileged_userfaultfd 0)."""

UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
UFFDIO_WRITEPROTECT = 0xC018AA06
UFFDIO_API_STRUCT = struct.Struct("<3Q")
"""`struct uffdio_api`: api, features, ioctls."""
UFFDIO_REGISTER_STRUCT = struct.Struct("<4Q")
"""`struct uffdio_register`: start, len, mode, ioctls."""
UFFDIO_WRITEPROTECT_STRUCT = struct.Struct("<3Q")
"""`struct uffdio_writeprotect`: start, len, mode."""
UFFDIO_REGISTER_MODE_WP = 1 << 1

UFFD_EVENT_FORK = 0x13
UFFD_MSG_SIZE = 32
UFFD_MSG_FORK_FD = struct.Struct("<8xI")
"""`struct uffd_msg` of a fork: the descriptor for the child's memory."""


class Feature:
    """`UFFD_FEATURE_*`."""

    EVENT_FORK = 1 << 1
    WP_UNPOPULATED = 1 << 13
    WP_ASYNC = 1 << 15
