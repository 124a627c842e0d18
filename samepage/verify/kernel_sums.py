"""The model against the kernel's own arithmetic: `/proc/PID/smaps`.

The comparison of two snapshots sums up both sides by our own rules. These rules could be
wrong on both sides in the same way, so the model's sums are also set against those that the kernel
prints. Its `Pss` and its split into shared and private count every process of the machine,
ours the group: where no other process matters, in resident, clean, dirty and anonymous
bytes, they must be equal.
"""

from collections.abc import Mapping, Sequence

from samepage.snapshot.columns import Snapshot
from samepage.verify.compare import Comparison
from samepage.verify.difference import Difference, DifferenceKind
from samepage.verify.side import Side
from samepage.verify.story import describe_vma
from samepage.verify.sums import Sums, group_sums

Smaps = Mapping[int, Mapping[int, Mapping[bytes, int]]]
"""pid -> start of the VMA -> field -> kB."""


def compare_with_smaps(
    result: Comparison,
    model: Snapshot,
    pairs: Sequence[tuple[int, int]],
    smaps: Smaps,
    shown: int,
) -> None:
    """Add to `result` where the model's sums are not those of the kernel's smaps."""
    side = Side(model, [ours for ours, _ in pairs])
    for process, ((_, pid), vmas, sums) in enumerate(
        zip(pairs, side.vmas, group_sums(side), strict=True)
    ):
        for vma, ours in zip(vmas, sums, strict=True):
            fields = smaps.get(pid, {}).get(vma.start)
            if fields is None:
                continue  # no such VMA there, which is a difference of its own
            left, right = _of_model(ours), _of_kernel(fields)
            if left != right:
                result.counts[DifferenceKind.KERNEL_SUMS] += 1
                if result.counts[DifferenceKind.KERNEL_SUMS] <= shown:
                    text = f"{_differing(left, right)} in {describe_vma(vma)}"
                    result.differences.append(
                        Difference(
                            DifferenceKind.KERNEL_SUMS,
                            process,
                            vma.start,
                            text,
                            _differing(right, left),
                        )
                    )


def _of_model(sums: Sums) -> dict[str, int]:
    clean = sums.shared_clean + sums.private_clean
    dirty = sums.shared_dirty + sums.private_dirty
    return {"clean": clean, "dirty": dirty, "anonymous": sums.anonymous}


def _of_kernel(fields: Mapping[bytes, int]) -> dict[str, int]:
    clean = fields.get(b"Shared_Clean", 0) + fields.get(b"Private_Clean", 0)
    dirty = fields.get(b"Shared_Dirty", 0) + fields.get(b"Private_Dirty", 0)
    anonymous = fields.get(b"Anonymous", 0)
    return {"clean": clean << 10, "dirty": dirty << 10, "anonymous": anonymous << 10}


def _differing(one: Mapping[str, int], other: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in one.items() if value != other[name])
