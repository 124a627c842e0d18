"""What processes belong to: units, pods, containers, users; and choosing processes by that.

A control group's path shows most of it (`control_group`), files of the container runtimes have the
names (`names`), and `selection` decides which processes a command line means. Nothing here reads
anything: the running system and a saved snapshot are asked in the same way.
"""
