"""Verdicts and summaries as lines of text."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from samepage.lab.commands import join_commands
from samepage.verify.group import Outcome
from samepage.verify.record import Record

_WORST = 10


def record_lines(record: Record, shown: int) -> Iterator[str]:
    """One line for each program of the group, then what differs, both sides' stories."""
    yield from _program_lines(record)
    if record["weaker"]:
        yield f"  weaker test: {record['weaker']}; present pages and smaps sums were compared"
    yield from (f"  note: {note}" for note in record["notes"])
    for kind, count in record["counts"].items():
        same = [d for d in record["differences"] if d["kind"] == kind][:shown]
        yield f"  {kind}: {count} differ" + (f", the first {len(same)}:" if count > shown else ":")
        for difference in same:
            where = f"{difference['address']:x} of " if difference["address"] else ""
            yield f"    {where}{difference['process'] or 'the group'}"
            yield f"      model   {difference['model']}"
            yield f"      kernel  {difference['kernel']}"


def _program_lines(record: Record) -> Iterator[str]:
    outcome = record["outcome"]
    if outcome == Outcome.UNTRIED.value:
        yield f"{outcome}: {join_commands(record['commands'])}: {record['reason']}"
        return
    for number, argv in enumerate(record["commands"]):
        mine = [p for p in record["processes"] if p["key"][0] == number]
        same, total = (sum(p[name] for p in mine) for name in ("pages_same", "pages_total"))
        pages = f"{same} of {total} pages the same"
        children = f" in {len(mine)} processes" if len(mine) > 1 else ""
        # A state file of an older samepage has no ends.
        end = record.get("ends", [])[number : number + 1]
        ended = f", {end[0]}" if end and end[0] and end[0] != "exit status 0" else ""
        yield f"{outcome}: {shlex.join(argv)}: {pages}{children}{ended}"


def excluded_lines(records: Sequence[Record]) -> Iterator[str]:
    """What no comparison has looked at, and why."""
    reasons = {name: why for record in records for name, why in record["excluded"].items()}
    for name, why in sorted(reasons.items()):
        yield f"not compared: {name}: {why}"


def summary_lines(records: Sequence[Record]) -> Iterator[str]:
    """How many groups agree, how many pages, and the worst offenders."""
    outcomes = Counter(record["outcome"] for record in records)
    memory = sum(r["same_memory"] and r["outcome"] != Outcome.UNTRIED.value for r in records)
    faults = sum(r["same_minor_faults"] and r["outcome"] != Outcome.UNTRIED.value for r in records)
    total = len(records)
    yield f"{total} groups: " + ", ".join(f"{n} {name}" for name, n in outcomes.most_common())
    if not total:
        return
    yield f"same memory to the last page: {memory} ({100 * memory / total:.1f} %)"
    later = sum(r["attempt"] > 1 for r in records if r["outcome"] == Outcome.AGREES.value)
    if later:
        yield f"of those that agree, {later} not in the first live run: the kernel varies"
    yield f"same minor faults: {faults} ({100 * faults / total:.1f} %)"
    same, pages = (sum(r[name] for r in records) for name in ("pages_same", "pages_total"))
    if pages:
        yield f"pages: {same} of {pages} the same ({100 * same / pages:.3f} %)"
    worst = sorted(records, key=lambda r: r["pages_same"] - r["pages_total"])[:_WORST]
    for record in worst:
        missing = record["pages_total"] - record["pages_same"]
        if missing:
            yield f"  {missing} pages differ: {join_commands(record['commands'])}"
