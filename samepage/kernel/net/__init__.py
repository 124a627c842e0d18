"""Sockets (net/): AF_UNIX between the processes of the model.

The model has no network interface, and no socket of a guest reaches a process of the host. Other
address families are refused as a kernel without them refuses them.
"""
