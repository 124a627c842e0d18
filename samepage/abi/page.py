"""The page size of the kernel that we run on, which the ABI leaves to it (AT_PAGESZ).

It is what the live kernel's /proc counts in and what our own mappings consist of. The model's
page size belongs to its architecture (`samepage.arch`), and is another matter.
"""

import os

HOST_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
HOST_PAGE_SHIFT = HOST_PAGE_SIZE.bit_length() - 1
