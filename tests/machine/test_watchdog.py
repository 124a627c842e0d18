"""The CPU may be stopped at any time, and programs do not notice."""

import subprocess

from samepage.machine import Machine
from samepage.machine.watchdog import watch

COMPUTE = """
import hashlib, json, re
words = [re.sub("a", "b", str(i) * 3) for i in range(1000)]
print(hashlib.sha256(json.dumps(words).encode()).hexdigest(), sum(i * i % 7 for i in range(20000)))
"""


def test_a_program_that_is_stopped_a_thousand_times_computes_the_same() -> None:
    argv = ["/usr/bin/python3", "-c", COMPUTE]
    machine = Machine("1G")
    guest = machine.spawn(argv, env={})
    with watch(machine.kernel, None, period_ns=200_000):
        machine.kernel.scheduler.run_until_exit(guest.process)
    assert guest.exit_code == 0
    assert guest.stdout == subprocess.run(argv, env={}, capture_output=True, check=True).stdout
