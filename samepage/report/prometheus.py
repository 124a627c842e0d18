"""The report as metrics, for node_exporter's textfile collector.

The text format is Prometheus' exposition format 0.0.4. Names follow its conventions: the
application first, base units (bytes), no unit but these; a gauge is what goes up and down.

Cardinality is bounded, because each label value is a time series that the server keeps: there is
no process id among the labels; programs, files, containers and users beyond the largest `LIMIT`
of each are added up under the value `other`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from samepage.analysis.cgroup_memory import CgroupAccounts
from samepage.analysis.groups import GroupUse, Key, by_container, by_pod, by_unit, by_user, groups
from samepage.analysis.lost_sharing import lost_sharing
from samepage.analysis.machine_memory import machine_memory
from samepage.analysis.sharing import ProcessUse, Sharing
from samepage.report.group_text import group_name
from samepage.report.sizes import printable
from samepage.report.text import UNREAD, files_in_memory
from samepage.snapshot.columns import PAGE_SIZE

LIMIT = 50
OTHER = "other"

Samples = Iterable[tuple[str, int]]


def write(sharing: Sharing, stream: TextIO, limit: int = LIMIT) -> None:
    """Write the exposition, with at most `limit` + 1 values for each label."""
    stream.writelines(_lines(sharing, limit))


def _lines(sharing: Sharing, limit: int) -> Iterator[str]:
    totals, meta = sharing.totals, sharing.snapshot.meta
    visible = sharing.snapshot.frames_visible
    yield from _metric("processes", "Processes that were read.", totals.processes)
    if sharing.snapshot.source == "live":
        unread = [(reason, int(meta.get(f"processes_{reason}", 0))) for reason, _ in UNREAD]
        help_text = "Processes that were not, or not wholly, read."
        yield from _labelled("processes_incomplete", help_text, "reason", unread)
    resident = totals.resident_pages * PAGE_SIZE
    yield from _metric("resident_bytes", "Sum of the RSS of all processes.", resident)
    swapped = totals.swapped_pages * PAGE_SIZE
    yield from _metric("swapped_bytes", "Swapped out of the processes.", swapped)
    copied = totals.copied_frames * PAGE_SIZE
    yield from _metric("copied_bytes", "Private copies of file pages (copy-on-write).", copied)
    if visible:
        yield from _metric("frames_bytes", "Physical memory of them.", totals.frames * PAGE_SIZE)
        yield from _metric("saved_bytes", "What sharing saves.", totals.saved_pages * PAGE_SIZE)
        lost = sum(each.saved_frames for each in lost_sharing(sharing))
        help_text = "What is lost because the same content is different inodes."
        yield from _metric("lost_sharing_bytes", help_text, lost * PAGE_SIZE)
    kinds: tuple[tuple[str, Key], ...] = (
        ("program", _by_name),
        ("unit", by_unit),
        ("pod", by_pod),
        ("container", by_container),
        ("user", by_user),
    )
    for label, key in kinds:
        named = [group for group in groups(sharing, key) if group.name]
        if label == "user":
            named = [
                group._replace(name=group_name(sharing.snapshot, label, group)) for group in named
            ]
        yield from _group(label, named, limit, visible)
    yield from _cgroups(sharing, limit)
    memory = machine_memory(sharing)
    if memory is not None:
        kinds_of_it = [(key, value) for key, _, value in memory.kinds if value is not None]
        help_text = "Memory of the machine that is not free (file_ are parts of file)."
        samples = [*kinds_of_it, ("rest", memory.rest)]
        yield from _labelled("machine_memory_bytes", help_text, "kind", samples)
    if visible:
        saved = [
            (use.file.path, use.saved_pages * PAGE_SIZE)
            for use in files_in_memory(sharing)
            if use.saved_pages
        ]
        help_text = "What the sharing of a file's pages saves."
        yield from _labelled("file_saved_bytes", help_text, "file", _bounded(saved, limit))


def _cgroups(sharing: Sharing, limit: int) -> Iterator[str]:
    """Yield the kinds of memory of the largest control groups, and of the others together."""
    found = CgroupAccounts(sharing).all()
    if not found:
        return
    kinds: dict[str, list[tuple[str, int]]] = {}
    for memory in found:
        of_it = memory.kinds
        for kind, value in (
            ("anonymous", of_it.anonymous),
            ("file_mapped", of_it.file_mapped),
            ("file_unmapped", of_it.file_unmapped),
            ("file", of_it.file if of_it.file_mapped is None else None),
            *(("shmem", of_it.shmem), ("hugetlb", of_it.hugetlb)),
            *(("kernel", of_it.kernel), ("sockets", of_it.sockets), ("rest", memory.rest)),
        ):
            if value is not None:
                kinds.setdefault(kind, []).append((memory.path, value))
    yield from _head("cgroup_memory_bytes", "What a control group is charged for, by kind.")
    largest = {memory.path for memory in found[:limit]}
    for kind, samples in kinds.items():
        rest = sum(value for path, value in samples if path not in largest)
        named = [sample for sample in samples if sample[0] in largest]
        for path, value in [*named, (OTHER, rest)] if rest else named:
            labels = f'cgroup="{_escape(printable(path))}",kind="{kind}"'
            yield f"samepage_cgroup_memory_bytes{{{labels}}} {value}\n"
    limits = [(memory.path, memory.limit.value) for memory in found[:limit] if memory.limit]
    if limits:
        help_text = "The smallest limit of a control group and those above."
        yield from _labelled("cgroup_limit_bytes", help_text, "cgroup", limits)


def _by_name(use: ProcessUse) -> str:
    return use.process.comm or "unknown"


def _group(label: str, found: Sequence[GroupUse], limit: int, visible: bool) -> Iterator[str]:
    if not found:
        return
    resident = _bounded([(group.name, group.rss * PAGE_SIZE) for group in found], limit)
    proportional = _bounded([(group.name, _bytes(group)) for group in found], limit)
    yield from _labelled(f"{label}_resident_bytes", f"RSS by {label}.", label, resident)
    help_text = f"Proportional set size by {label}."
    yield from _labelled(f"{label}_proportional_bytes", help_text, label, proportional)
    if visible:
        own = _bounded([(group.name, group.own_frames * PAGE_SIZE) for group in found], limit)
        help_text = f"Memory that only this {label} maps."
        yield from _labelled(f"{label}_own_bytes", help_text, label, own)


def _bytes(group: GroupUse) -> int:
    return int(group.pss * PAGE_SIZE)


def _bounded(samples: Sequence[tuple[str, int]], limit: int) -> Samples:
    """Return the first `limit` samples, equal names added up, and the rest as one."""
    sums: dict[str, int] = {}
    rest = 0
    for name, value in samples:
        name = printable(name) or "unknown"
        if name in sums or (len(sums) < limit and name != OTHER):
            sums[name] = sums.get(name, 0) + value
        else:
            rest += value
    if rest:
        sums[OTHER] = rest
    return sums.items()


def _metric(name: str, help_text: str, value: int) -> Iterator[str]:
    yield from _head(name, help_text)
    yield f"samepage_{name} {value}\n"


def _labelled(name: str, help_text: str, label: str, samples: Samples) -> Iterator[str]:
    yield from _head(name, help_text)
    for value, sample in samples:
        yield f'samepage_{name}{{{label}="{_escape(value)}"}} {sample}\n'


def _head(name: str, help_text: str) -> Iterator[str]:
    yield f"# HELP samepage_{name} {help_text}\n"
    yield f"# TYPE samepage_{name} gauge\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
