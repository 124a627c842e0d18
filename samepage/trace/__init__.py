"""Live processes acted on: ptrace, programs held at an instant, and ghosts that keep memory.

`launch` starts a program so that its addresses are the same each time; `traced` holds a whole
tree of processes at one instant of their lives; a `ghost` keeps an address space after its
process has ended; `ldso` stops the real ld.so and reads what it did. A traced program's memory is
left as it is: breakpoints are debug registers, since one written into its text would copy the
page. When the tracer ends, whatever it started ends with it.
"""
