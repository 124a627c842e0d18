"""The one error that a user is meant to see.

Whatever goes wrong for a reason outside samepage (a missing file, bad options, an
unusable ELF file, no permission) is raised as a `SamepageError`: the command line prints
it as one line and exits with its status. Any other exception is a bug in samepage.
"""


class SamepageError(Exception):
    """A failure that the user can act on.

    `message` is one line: what went wrong, where, and what to do. `exit_status` is what the
    process ends with: 2 for usage and unusable input, 126 for a program that cannot be
    executed and 127 for one that does not exist, as a shell has it.
    """

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.message = message
        self.exit_status = exit_status
