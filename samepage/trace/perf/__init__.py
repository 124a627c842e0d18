"""Page faults of live processes as the kernel reports them, by perf_event_open(2).

`tracefs` finds the tracepoints, `event` opens one counter on one target, `ring` is the memory
that the kernel writes records into, `session` holds all of them for a set of processes, and
`decode` turns the records into columns. Nothing here knows what a fault means for sharing:
`samepage.trace.writes` decides that.
"""
