"""System calls: one function each, grouped by subject.

`table` finds the function of a number, and imports the modules only as far as programs need
them. A handler takes the task and the raw registers, converted as its annotations require,
checks the arguments in Linux's order, since the errno depends on it, and leaves the work to
`mm`, `fs` and `process`. It returns a number, raises `SysError` with an errno, or yields a
`Wait` until it can return. A call that is missing returns ENOSYS and is counted: success is
never returned for what was not done. CONTRIBUTING.md lists the steps to add one.
"""
