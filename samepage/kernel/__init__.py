"""The kernel: memory management, files, processes and system calls by Linux's rules."""
