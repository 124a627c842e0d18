"""Make the pictures of the README: real output of samepage on this machine, as SVG.

    .venv/bin/python docs/images/make.py        (or: make images)

The numbers in them are those of the machine on which this was last run.
"""

import io
import os
import pathlib

from rich.console import Console
from rich.text import Text

from samepage import Machine
from samepage.demo.story import tell_story
from samepage.report import print_report
from samepage.report.demo import print_story
from samepage.report.tables import Terminal

HERE = pathlib.Path(__file__).parent
WIDTH = 80


def main() -> None:
    """Write `report.svg` and `demo.svg` beside this file."""
    stream = io.StringIO()
    machine = Machine()
    for argv in (["sort", "/etc/services"], ["uname", "-a"]):
        machine.run(machine.spawn(argv, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}))
    print_report(machine.snapshot(), Terminal(stream, WIDTH, styled=True))
    _save(stream, "report.svg", "samepage run sort /etc/services ::: uname -a")

    stream = io.StringIO()
    story = tell_story()
    story.acts = story.acts[:1]
    print_story(story, Terminal(stream, WIDTH, styled=True))
    _save(stream, "demo.svg", "samepage demo (the first act)")


def _save(stream: io.StringIO, name: str, title: str) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print(Text.from_ansi(stream.getvalue()))
    console.save_svg(str(HERE / name), title=title, unique_id=name.partition(".")[0])


if __name__ == "__main__":
    main()
