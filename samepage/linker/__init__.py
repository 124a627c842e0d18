"""linker."""
