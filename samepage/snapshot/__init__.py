"""The snapshot: what lay in physical memory at one instant.

The model and the live kernel fill in the same tables: processes, VMAs, pages, frames, files and
events. On disk they are a directory of Parquet files that is replaced as a whole, and `check`
proves every invariant of one that comes from outside before it is used. Everything that answers
questions reads snapshots.
"""
