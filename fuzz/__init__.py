"""Fuzzing of what reads files that others have made."""
