"""NumPy without threads.

Nothing in samepage multiplies matrices, but OpenBLAS, which comes with NumPy, starts a thread for
each CPU when it is imported. Each waits for work in a busy loop for a while: that is a
third of the CPU time of a command, and a quarter of its time where the CPUs have other work.
"""

import os


def use_one_thread() -> None:
    """Keep OpenBLAS from starting threads; to be called before NumPy is imported.

    The environment holds the setting, so programs that are to have the user's own must have got
    it before.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
