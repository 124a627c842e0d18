"""Choosing processes of a snapshot as on the running system (`samepage.groups.selection`)."""

import os

from samepage.errors import SamepageError
from samepage.groups.selection import Selection, choose, user_number
from samepage.snapshot.columns import Snapshot
from samepage.snapshot.subset import subset


def select(snapshot: Snapshot, selection: Selection) -> Snapshot:
    """Return the snapshot with only the processes that are asked for.

    Raises `SamepageError` if there is none, or if a user's name is given and the snapshot is of
    another machine, where the name may have another number.
    """

    def number_here(name: str) -> int | None:
        if snapshot.meta.get("host", "") != os.uname().nodename:
            raise SamepageError(f"user {name}: the snapshot is of another host, use the number")
        return user_number(name)

    return subset(snapshot, set(choose(selection, snapshot.processes, user_number=number_here)))
