"""Make the pictures of the README: real output of samepage on this machine, as SVG.

    .venv/bin/python docs/images/make.py        (or: make images)

The numbers in them are those of the machine on which this was last run.
"""

import io
import os
import pathlib

from rich.console import Console

from samepage import Machine
from samepage.demo.story import tell_story
from samepage.report import print_report
from samepage.report.demo import print_story

HERE = pathlib.Path(__file__).parent
WIDTH = 80


def main() -> None:
    """Write `report.svg` and `demo.svg` beside this file."""
    console = _console()
    machine = Machine()
    for argv in (["sort", "/etc/services"], ["uname", "-a"]):
        machine.run(machine.spawn(argv, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}))
    print_report(machine.snapshot(), console)
    _save(console, "report.svg", "samepage run sort /etc/services ::: uname -a")

    console = _console()
    story = tell_story()
    story.acts = story.acts[:1]
    print_story(story, console)
    _save(console, "demo.svg", "samepage demo (the first act)")


def _console() -> Console:
    return Console(
        record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False
    )


def _save(console: Console, name: str, title: str) -> None:
    console.save_svg(str(HERE / name), title=title, unique_id=name.partition(".")[0])


if __name__ == "__main__":
    main()
