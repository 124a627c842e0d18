"""The kernel of the model: what Linux does with memory, files and processes, by Linux's rules.

`boot` makes the parts and connects them; `entry` is the way in from user mode and back: system
calls, page faults, exceptions. Below it, `syscalls` is what a program calls, `process` runs
programs and ends them, `fs` holds the files that are mapped, `net` and `ipc` what processes
exchange, and `mm` gives memory and takes it back. `debug` checks the invariants of all of them
while a machine runs. Functions have the names of those in Linux that they follow, and their
docstrings name the file. Only what a program can see is modelled: there is one CPU, no devices,
and no locking. The kernel knows nothing of dynamic linking; a linker is a program to it.
"""
