"""The snapshot: physical memory at one instant as tables, and their storage."""
