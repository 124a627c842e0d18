"""The memory of control groups and of the machine in the JSON report; in bytes, frames in pages."""

from typing import Any

from samepage.analysis.cgroup_memory import CgroupAccounts, CgroupMemory, Charge, Charges, Limit
from samepage.analysis.machine_memory import machine_memory
from samepage.analysis.sharing import Sharing


def cgroups_document(sharing: Sharing) -> list[dict[str, Any]]:
    """Return all control groups with processes, the largest first."""
    accounts = CgroupAccounts(sharing)
    return [_group(memory, accounts.charges(memory.path)) for memory in accounts.all()]


def machine_document(sharing: Sharing) -> dict[str, Any] | None:
    """Return what the machine's memory is used for, None if it is not known."""
    memory = machine_memory(sharing)
    if memory is None:
        return None
    return {
        "total_bytes": memory.total,
        "used_bytes": memory.used,
        "kinds": {f"{key}_bytes": value for key, _, value in memory.kinds},
        "rest_bytes": memory.rest,
        "swap_total_bytes": memory.swap_total,
        "swap_used_bytes": memory.swap_used,
    }


def _group(memory: CgroupMemory, charges: Charges) -> dict[str, Any]:
    kinds = memory.kinds
    return {
        "path": memory.path,
        "inode": memory.inode,
        "version": memory.version,
        "charged_bytes": memory.current,
        "anonymous_bytes": kinds.anonymous,
        "file_bytes": kinds.file,
        "file_mapped_bytes": kinds.file_mapped,
        "file_unmapped_bytes": kinds.file_unmapped,
        "shmem_bytes": kinds.shmem,
        "hugetlb_bytes": kinds.hugetlb,
        "kernel_bytes": kinds.kernel,
        "kernel_parts": dict(kinds.kernel_parts),
        "sockets_bytes": kinds.sockets,
        "rest_bytes": memory.rest,
        "swap_bytes": memory.swap,
        "limit": _limit(memory.limit),
        "high": _limit(memory.high),
        "borrowed": _charges(charges.borrowed),
        "lent": _charges(charges.lent),
    }


def _limit(limit: Limit | None) -> dict[str, Any] | None:
    return limit and {"bytes": limit.value, "path": limit.path}


def _charges(charges: tuple[Charge, ...] | None) -> list[dict[str, Any]] | None:
    if charges is None:
        return None
    return [{"path": charge.path or None, "pages": charge.frames} for charge in charges]
