"""The error of a command on a processor that the model does not have."""

import os

from samepage.errors import SamepageError

MODEL = "x86_64"


def need_models_processor(command: str) -> None:
    """Raise `SamepageError` if `command`, which compares with the model, runs elsewhere."""
    machine = os.uname().machine
    if machine != MODEL:
        raise SamepageError(
            f"{command} compares this system with the model, which is an {MODEL} machine; "
            f"this one is {machine}. `samepage live` reads it"
        )
