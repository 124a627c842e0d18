"""A snapshot in memory: seven Arrow tables that agree with each other.

Both kernels make one with `samepage.snapshot.builder.SnapshotBuilder`, and the store reads
one back; everything above them takes a `Snapshot` and may rely on the invariants below.
Tables are kept in chunks as they came (one per process, or one per row group of a file), and
`page_batches` hands out the pages in bounded pieces, so that ten million pages never need
a second copy.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from samepage.snapshot.schema import SCHEMA_VERSION, TABLES, TOLD

PAGE_SHIFT = 12
BATCH_ROWS = 1 << 20
"""How many pages are looked at in one piece: a few dozen MB of temporaries."""

_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")

UNIMPLEMENTED_PREFIX = "unimplemented_syscall:"
"""`meta` keys of this form hold how often an unimplemented system call was asked for."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Physical memory at one instant.

    Invariants, which `check` proves:
    - each table has the columns and types of `TABLES`, without nulls but where allowed;
    - `processes` ascends by pid, `vmas` by (pid, start), `pages` by (pid, vpage), `frames`
      by frame, `events` by order, and each key occurs once; `files.file` is the row number,
      and (dev, ino) occurs once;
    - every pid is in `processes`; every file is -1 or a row of `files`;
    - the VMAs of a process do not overlap, and each of its pages lies in one of them;
    - every frame of `pages` is 0 (not told) or a row of `frames`;
    - the kernel's own sums of a VMA (`TOLD`) are all there or all null;
    - `meta` has `version` and `source`.
    """

    processes: pa.Table
    vmas: pa.Table
    pages: pa.Table
    frames: pa.Table
    files: pa.Table
    events: pa.Table
    meta: pa.Table

    @classmethod
    def empty(cls, source: str = "model") -> "Snapshot":
        """Return the snapshot of no process at all."""
        tables = {name: schema.empty_table() for name, schema in TABLES.items()}
        tables["meta"] = pa.table(
            {"key": ["version", "source"], "value": [str(SCHEMA_VERSION), source]},
            schema=TABLES["meta"],
        )
        return cls(**tables)

    def tables(self) -> dict[str, pa.Table]:
        """Return the tables by name, in the schema's order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def meta_dict(self) -> dict[str, str]:
        """Return `meta` as a dictionary."""
        return dict(zip(self.meta["key"].to_pylist(), self.meta["value"].to_pylist(), strict=True))

    @property
    def source(self) -> str:
        """Where the snapshot came from: "model" or "live"."""
        return self.meta_dict().get("source", "")

    def unimplemented_syscalls(self) -> dict[str, int]:
        """Return how often each unimplemented system call was asked for, by name."""
        return {
            key.removeprefix(UNIMPLEMENTED_PREFIX): int(value)
            for key, value in self.meta_dict().items()
            if key.startswith(UNIMPLEMENTED_PREFIX)
        }

    def page_batches(
        self, rows: int = BATCH_ROWS, *, pid: int | None = None
    ) -> Iterator["PageBatch"]:
        """Yield all pages, or those of one process, in order, as NumPy views.

        Each piece has at least one row and at most `rows`.
        """
        first, count = (0, self.pages.num_rows) if pid is None else self._rows_of(pid)
        for batch in self.pages.slice(first, count).to_batches(max_chunksize=rows):
            if not batch.num_rows:
                continue
            yield PageBatch(
                first,
                batch.column(0).to_numpy(),
                batch.column(1).to_numpy(),
                batch.column(2).to_numpy(),
                batch.column(3).to_numpy(),
            )
            first += batch.num_rows

    def _rows_of(self, pid: int) -> tuple[int, int]:
        """Return the first row and the number of rows that one process has in `pages`."""
        first = count = 0
        key = np.int32(pid)  # with a plain int NumPy would convert the whole column to int64
        for chunk in self.pages["pid"].chunks:
            pids = chunk.to_numpy()
            low, high = (int(np.searchsorted(pids, key, side=side)) for side in _SIDES)
            first += low
            count += high - low
            if high < len(pids):
                break
        return first, count

    def told(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the rows of `vmas` that have the kernel's own sums, and these, as `TOLD`."""
        columns = [self.vmas[name] for name in TOLD]
        if columns[0].null_count == len(columns[0]):
            return np.empty(0, dtype=np.int64), np.empty((0, len(TOLD)), dtype=np.int64)
        rows = np.flatnonzero(columns[0].is_valid().to_numpy())
        return rows, np.stack([values.drop_null().to_numpy() for values in columns], axis=1)

    def check(self) -> None:
        """Raise `SamepageError`, naming table and row, if an invariant does not hold."""
        from samepage.snapshot.check import check

        check(self)


@dataclass(frozen=True, slots=True)
class PageBatch:
    """Consecutive rows of `pages` as arrays; `first` is the row number of the first."""

    first: int
    pid: npt.NDArray[np.int32]
    vpage: npt.NDArray[np.uint64]
    frame: npt.NDArray[np.uint64]
    flags: npt.NDArray[np.uint16]

    def runs(self) -> Iterator[tuple[int, slice]]:
        """Yield each process of the batch with where its pages are."""
        heads = np.flatnonzero(self.pid[1:] != self.pid[:-1]) + 1
        for low, high in itertools.pairwise([0, *heads.tolist(), len(self.pid)]):
            yield int(self.pid[low]), slice(low, high)


def column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a numeric column without nulls as one NumPy array (a view if in one chunk)."""
    chunks = table.column(name).chunks
    if len(chunks) == 1:
        return chunks[0].to_numpy()  # type: ignore[no-any-return]
    return table.column(name).to_numpy()  # type: ignore[no-any-return]
