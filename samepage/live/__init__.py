"""The live kernel, read: what /proc knows of processes, their mappings and their frames.

`collect` reads the files as raw bytes while NumPy is still being imported; `maps`, `pages` and
`frame_table` make columns of them, six bytes for each resident page; `capture` is all of it, and
`accounting` computes the sums that smaps prints. Processes come and go while they are read, and
others may not be read: what is missing is counted, never guessed. Nothing here changes the system
that it reads.
"""
