"""Which rules a kernel has, by its release."""

import re

from samepage.errors import SamepageError
from samepage.kernel.rules.changes import CHANGES, LAST_SYSCALLS, Version
from samepage.kernel.rules.record import KernelRules

KNOWN = ("6.1", "6.12", "6.18")
"""Versions on which `samepage verify` was run (docs/fidelity.md)."""


def rules_of(release: str) -> KernelRules:
    """The rules of a kernel by what `uname -r` prints of it. A version between two that are known
    has each change that was made up to it; an unknown form has those of the newest."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        return KernelRules()
    version = int(match[1]), int(match[2])
    calls = [number for since, number in LAST_SYSCALLS.items() if since <= version]
    return KernelRules(
        **{name: _has(version, name) for name in CHANGES},
        last_syscall=max(calls, default=min(LAST_SYSCALLS.values())),
    )


def named_rules(version: str) -> KernelRules:
    """The rules of a version that a user names. Raises `SamepageError` if it is not known."""
    if version not in KNOWN:
        raise SamepageError(f"no rules of Linux {version}: there are those of {', '.join(KNOWN)}")
    return rules_of(version)


def _has(version: Version, name: str) -> bool:
    change = CHANGES[name]
    return version >= change.since or version in change.backported
