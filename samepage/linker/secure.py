"""Whether Linux starts a program in secure mode (AT_SECURE), for the user that we are.

A set-user-ID or set-group-ID program of another user, and one with file capabilities, has
rights that its user has not. So its user must not choose the code that it runs: ld.so then
takes no directory from LD_LIBRARY_PATH, no path from LD_PRELOAD, and follows $ORIGIN only into
the system's own directories.

Source: `bprm_fill_uid`, `cap_bprm_creds_from_file` of Linux (security/commoncap.c).
"""

import os
import stat


def is_secure(path: str) -> bool:
    """Whether the program at `path` gets AT_SECURE=1. False if there is no such file."""
    try:
        status = os.stat(path)
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            return False
        has_capabilities = "security.capability" in os.listxattr(path)
    except OSError:
        return False
    user = status.st_mode & stat.S_ISUID and status.st_uid != os.getuid()
    # Without the right to execute, the bit has another meaning: mandatory locking.
    group_bits = stat.S_ISGID | stat.S_IXGRP
    group = status.st_mode & group_bits == group_bits and status.st_gid != os.getgid()
    return bool(user or group or (has_capabilities and os.getuid() != 0))
