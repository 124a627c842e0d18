"""The processes of an engine end with the one that made it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samepage.cpu.engine import EngineError
from samepage.cpu.native.engine import NativeEngine

PATIENCE = 30
LOOP = ["sh", "-c", "while :; do :; done"]


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _lives(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_killed_while_a_guest_computes_samepage_leaves_no_process():
    try:
        NativeEngine(1 << 20, lambda address, access: False)
    except EngineError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "samepage", "run", "--engine", "native", "-q", "--", *LOOP]
    with subprocess.Popen(command) as process:
        end = time.monotonic() + PATIENCE
        stubs = []
        while not stubs and time.monotonic() < end:
            time.sleep(0.05)
            stubs = _children(process.pid)
        assert stubs, "no stub was started"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    while any(map(_lives, stubs)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in stubs if _lives(pid)]
