"""The machine itself: physical RAM, x86-64 page tables that live in it, and one CPU."""
