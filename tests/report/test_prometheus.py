"""Metrics: labels as people know them."""

import io
import os
import pwd

import pytest

from samepage.analysis.sharing import Sharing
from samepage.report.prometheus import write
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process


@pytest.mark.parametrize("here", [True, False])
def test_users_have_names_where_the_snapshot_is_of_this_machine(here: bool) -> None:
    builder = SnapshotBuilder("live", host=os.uname().nodename if here else "elsewhere")
    builder.add_process(Process(1, uid=0))
    builder.add_process(Process(2, uid=4_000_000))
    stream = io.StringIO()
    write(Sharing(builder.build()), stream)
    root = pwd.getpwuid(0).pw_name if here else "0"
    assert f'samepage_user_resident_bytes{{user="{root}"}} 0\n' in stream.getvalue()
    assert 'samepage_user_resident_bytes{user="4000000"} 0\n' in stream.getvalue()
