"""The truth test: the model against the live kernel, page by page.

A group of programs runs on both sides to the same instant. `compare` then demands the same set of
present pages in each process, the same sharing up to a renaming of frames, and the same label of
each page; `lab.faults` and `kernel_sums` demand the same fault counts and the sums that the kernel
itself prints. `group` is one comparison from beginning to end, `corpus` many of them, and
`linking` compares our linker with glibc's ld.so. Where the sides differ, Linux is right.
"""
