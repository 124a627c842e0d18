"""The story of a shared library in memory, shown with evidence: `samepage demo`.

Two programs use one library. `story` takes them through five instants of their lives and
writes down, at each, what the page tables and the page cache hold. It does so on any
`HoldingSide` of `samepage.lab`: the model machine and the live kernel offer the same few
actions, so the same lines of code gather both columns. Nothing is known beforehand: which
programs and which library, which function is called first and which page is written are all
found out.
"""
