"""The report for programs: one JSON document, described by `report.schema.json`.

All amounts are in pages of `page_size` bytes, addresses and offsets are bytes as plain
integers. What is not known is null. The document has no more than the schema names.
"""

import importlib.resources
import json
from typing import Any, TextIO

from samepage import __version__
from samepage.analysis.forks import Family, Forks, Kin
from samepage.analysis.groups import KINDS, GroupUse, groups, key_of
from samepage.analysis.lost_sharing import LostSharing, lost_sharing
from samepage.analysis.old_versions import OldVersion, old_versions
from samepage.analysis.page_map import PageMap, page_maps
from samepage.analysis.sharing import FileUse, ProcessUse, Sharing, Usage, VmaUse
from samepage.groups.control_group import unit
from samepage.report.cgroup_json import cgroups_document, machine_document
from samepage.snapshot.columns import PAGE_SIZE, UNIMPLEMENTED_PREFIX

REPORT_VERSION = 1
"""Raised when a key is removed or gets another meaning; new keys do not raise it."""


def write(sharing: Sharing, stream: TextIO) -> None:
    """Write the document: a line per key, and per element of the long arrays."""
    before = "{\n"
    for key, value in document(sharing).items():
        text = _compact(value)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(map(_compact, value)) + "\n ]"
        stream.write(f"{before} {_compact(key)}: {text}")
        before = ",\n"
    stream.write("\n}\n")


def _compact(value: Any) -> str:
    # json.dump with an indentation is not done by its C code: ten times as slow.
    return json.dumps(value, ensure_ascii=False)


def schema() -> Any:
    """Return the JSON schema (draft 2020-12) that every document obeys."""
    file = importlib.resources.files("samepage.report") / "report.schema.json"
    return json.loads(file.read_text(encoding="utf-8"))


def document(sharing: Sharing) -> dict[str, Any]:
    """Return the report as plain dictionaries and lists."""
    meta = sharing.snapshot.meta
    lost = lost_sharing(sharing)
    maps = page_maps(sharing, range(len(sharing.files)))
    forks = Forks(sharing)
    return {
        "schema_version": REPORT_VERSION,
        "samepage_version": __version__,
        "source": sharing.snapshot.source,
        "meta": {k: v for k, v in meta.items() if not k.startswith(UNIMPLEMENTED_PREFIX)},
        "scope": sharing.scope.value,
        "page_size": PAGE_SIZE,
        "totals": _totals(sharing, lost),
        "processes": [_process(sharing, use, forks) for use in sharing.processes],
        "files": [_file(sharing, use, maps[use.number]) for use in sharing.files],
        **{
            f"{kind}s": [_group(group) for group in groups(sharing, key_of(kind, sharing.snapshot))]
            for kind in KINDS
        },
        "families": [_family(family) for family in forks.families],
        "cgroups": cgroups_document(sharing),
        "machine": machine_document(sharing),
        "lost_sharing": [_lost(each) for each in lost],
        "old_versions": [_old(each) for each in old_versions(sharing)],
        "unimplemented_syscalls": sharing.snapshot.unimplemented_syscalls(),
    }


def _totals(sharing: Sharing, lost: list[LostSharing]) -> dict[str, Any]:
    totals, processes = sharing.totals, sharing.snapshot.processes
    return {
        "processes": totals.processes,
        "virtual_pages": totals.virtual_pages,
        "rss_pages": totals.resident_pages,
        "pss_pages": float(sharing.share),
        "uss_pages": sum(use.usage.uss for use in sharing.processes),
        "frames": totals.frames,
        "file_frames": totals.file_frames,
        "anonymous_frames": totals.anonymous_frames,
        "shmem_frames": totals.shmem_frames,
        "other_frames": totals.other_frames,
        "saved_pages": totals.saved_pages,
        "copied_pages": totals.copied_pages,
        "copied_frames": totals.copied_frames,
        "hugetlb_pages": totals.hugetlb_pages,
        "hugetlb_frames": totals.hugetlb_frames,
        "ksm_pages": totals.ksm_pages,
        "ksm_frames": totals.ksm_frames,
        "anon_huge_pages": totals.anon_huge_pages,
        "swapped_pages": totals.swapped_pages,
        "unknown_pages": totals.unknown_pages,
        "lost_pages": sum(each.saved_frames for each in lost),
        "minor_faults": sum(process.minor_faults for process in processes),
        "major_faults": sum(process.major_faults for process in processes),
    }


def _process(sharing: Sharing, use: ProcessUse, forks: Forks) -> dict[str, Any]:
    process, kin = use.process, forks.of_vmas(use.number)
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "argv": list(process.argv),
        "comm": process.comm,
        "exe": process.exe,
        "uid": process.uid,
        "cgroup": process.cgroup,
        "memory_cgroup": process.memory_cgroup,
        "container": process.container,
        "container_name": process.container_name,
        "unit": unit(process.cgroup),
        "pod": process.pod,
        "exit_code": process.exit_code,
        "minor_faults": process.minor_faults,
        "major_faults": process.major_faults,
        "virtual_pages": use.virtual_pages,
        "pss_pages": float(use.share),
        "uss_pages": use.usage.uss,
        **_usage(use.usage),
        "vmas": [_vma(vma, kin.get(vma.number)) for vma in sharing.vmas(use.number)],
    }


def _vma(vma: VmaUse, kin: Kin | None) -> dict[str, Any]:
    return {
        "start": vma.start,
        "end": vma.end,
        "perms": vma.mapping.perms,
        "offset": vma.mapping.offset,
        "name": vma.mapping.name,
        "file": vma.mapping.file if vma.mapping.file >= 0 else None,
        "pss_kib": vma.usage.pss_kib,
        **_usage(vma.usage),
        "fork": None if kin is None else _kin(kin),
    }


def _kin(kin: Kin) -> dict[str, int]:
    return {"shared_pages": kin.shared, "copied_pages": kin.copied, "apart_pages": kin.apart}


def _family(family: Family) -> dict[str, Any]:
    return {
        "root": family.root,
        "frames": family.frames,
        "mapped_pages": family.mapped,
        "copied_frames": family.copied,
        "members": [
            {"pid": member.pid, "parent": member.parent, **_kin(member.kin)}
            for member in family.members
        ],
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "rss_pages": usage.rss,
        "shared_clean_pages": usage.shared_clean,
        "shared_dirty_pages": usage.shared_dirty,
        "private_clean_pages": usage.private_clean,
        "private_dirty_pages": usage.private_dirty,
        "anonymous_pages": usage.anonymous,
        "swapped_pages": usage.swap,
        "zero_pages": usage.zero,
        "hugetlb_pages": usage.hugetlb,
        "unknown_pages": usage.unknown,
    }


def _file(sharing: Sharing, use: FileUse, page_map: PageMap) -> dict[str, Any]:
    file, degrees = use.file, sorted(sharing.degrees[use.number].items())
    return {
        "file": use.number,
        "path": file.path,
        "dev": file.dev,
        "inode": file.ino,
        "deleted": file.deleted,
        "size": file.size,
        "build_id": file.build_id,
        "frames": use.frames,
        "cached_frames": use.cached_frames,
        "mapped_pages": use.mapped_pages,
        "copied_pages": use.copied_pages,
        "copied_frames": use.copied_frames,
        "saved_pages": use.saved_pages,
        "frames_by_mapcount": {str(times): frames for times, frames in degrees},
        "copies": [
            {"first_page": run.first, "pages": run.pages, "processes": run.processes}
            for run in page_map.copied_runs()
        ],
        "mapped_by": [
            {
                "pid": mapper.pid,
                "virtual_pages": mapper.virtual_pages,
                "pages": mapper.pages,
                "copied_pages": mapper.copied,
            }
            for mapper in sharing.mappers[use.number]
        ],
    }


def _group(group: GroupUse) -> dict[str, Any]:
    return {
        "name": group.name,
        "pids": [use.process.pid for use in group.processes],
        "rss_pages": group.rss,
        "pss_pages": float(group.share),
        "frames": group.frames,
        "own_frames": group.own_frames,
        "freed_frames": group.freed_frames,
    }


def _lost(lost: LostSharing) -> dict[str, Any]:
    return {
        "name": lost.name,
        "build_id": lost.build_id,
        "frames": lost.frames,
        "saved_pages": lost.saved_frames,
        "files": [
            {
                "file": twin.use.number,
                "path": twin.use.file.path,
                "inode": twin.use.file.ino,
                "frames": twin.use.cached_frames,
                "containers": list(twin.containers),
                "pids": [process.pid for process in twin.processes],
                "cause": twin.cause.name.lower() if twin.cause else None,
            }
            for twin in lost.twins
        ],
    }


def _old(old: OldVersion) -> dict[str, Any]:
    return {
        "file": old.use.number,
        "path": old.use.file.path,
        "inode": old.use.file.ino,
        "build_id": old.use.file.build_id,
        "frames": old.use.cached_frames,
        "copied_frames": old.use.copied_frames,
        "pids": [use.process.pid for use in old.processes],
        "containers": sorted({use.process.container for use in old.processes}),
        "restart": list(old.restart),
    }
