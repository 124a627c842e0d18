"""A verdict as plain data: what `-f json` prints, a worker sends, and a state file keeps."""

from typing import Any

from samepage.lab.keys import describe_key
from samepage.verify.group import Verdict

Record = dict[str, Any]


def to_record(verdict: Verdict) -> Record:
    """All of a verdict, in values that JSON has."""
    result = verdict.comparison
    return {
        "commands": [list(argv) for argv in verdict.commands],
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "weaker": verdict.weaker,
        "notes": verdict.notes,
        "attempt": verdict.attempt,
        "ends": verdict.ends,
        "same_memory": result.same_memory,
        "same_minor_faults": result.same_minor_faults,
        "pages_same": result.pages,
        "pages_total": result.total_pages,
        "processes": [
            {
                "process": describe_key(key),
                "key": list(key),
                "pages_same": same,
                "pages_total": total,
            }
            for key, (same, total) in zip(verdict.keys, result.by_process, strict=True)
        ],
        "counts": {kind.value: count for kind, count in result.counts.items() if count},
        "differences": [
            {
                "kind": difference.kind.value,
                "process": describe_key(verdict.keys[difference.process])
                if difference.process >= 0
                else "",
                "address": difference.address,
                "model": difference.model,
                "kernel": difference.kernel,
            }
            for difference in result.differences
        ],
        "excluded": result.excluded,
        "seconds": round(verdict.seconds, 3),
    }
