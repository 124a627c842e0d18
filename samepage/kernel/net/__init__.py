"""Sockets (net/): AF_UNIX between the processes of the model."""
