"""Processes and threads: how they start, run, wait, get signals, and end.

`task` holds the data: a `Process` is what threads share (`signal_struct`, `mm`, `files`), a
`Task` is one thread. `exec` with `elf_loader`, `user_stack` and `vdso` starts a program, `clone`
makes a process or thread, `exit` ends one, and `scheduler` decides which task runs on the one
CPU. `signal` sends signals and acts on them; `sigset` is their data and `sigframe` the frame that
a handler runs on. A system call that must wait is a generator that yields a `Wait`: `futex`
shows how. Memory is never touched here but through `kernel.mm`.
"""
