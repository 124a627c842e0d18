"""Answers from a snapshot: who pays for which page, and why.

`counting` goes over all pages once, as smaps does, and counts them for each process, VMA, file
and group; `sharing` is the result, which every report is made from. On it rest `groups` (a
program, a container, a user), `page_map` (one file, page by page), `lost_sharing` with `twins`
(the same content in memory twice, because it is two inodes) and `diff` (two snapshots). `cost`,
`cost_tables`, `savings` and `got_layout` need no snapshot: they compute from a library's tables
what each process pays that loads it. Nothing here knows whether the model or the live kernel
filled in the tables.
"""
