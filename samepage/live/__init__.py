"""The live kernel, read: what /proc knows of processes, their mappings and their frames.

`collect` reads the files as raw bytes while NumPy is still being imported; what it read becomes
columns, six bytes for each resident page, and `capture` is the whole of it. Processes come and go
while they are read, and others may not be read: what is missing is counted, never guessed.
Nothing here changes the system that it reads.
"""
