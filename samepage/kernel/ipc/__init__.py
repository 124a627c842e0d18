"""Inter-process communication of System V (ipc/): shared memory."""
