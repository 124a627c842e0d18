"""Run programs to an instant, on a side, and look at what they have in memory.

    scenario = Scenario([["true"], ["uname"]], ENVIRONMENT)
    kernel = observe(LiveSide(), scenario)
    model = observe(ModelSide(), replace(scenario, host=kernel.host))

A `Scenario` holds everything that decides which pages programs get: their command lines,
environment, directory and instant, how the machine is made, and the state of the host that
a run finds (the page cache with its folios, what the CPU saves in a signal frame). So it can
be run again: on the same side, or on another one.

A `Side` runs it. The model and the live kernel are two of them; what a live kernel once
showed, kept in a file, is a third. All three give an `Observation`: the same record, so
that whoever compares or counts need not know where it came from. On the first two a program
can also be held on its way (`Held`), and looked at at several instants of its life.
"""
