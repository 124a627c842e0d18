"""The kernel of the model: what Linux does with memory, files and processes, by Linux's rules.

`mm` gives memory and takes it back, `fs` holds the files that are mapped, `net` the sockets
between processes, `process` runs programs and ends them, and `syscalls` is the way in for a
program. Functions have the names of those in Linux that they follow, and their docstrings name
the file. Only what a program can see is modelled: there is one CPU, no devices, and no locking.
The kernel knows nothing of dynamic linking; a linker is a program to it.
"""
