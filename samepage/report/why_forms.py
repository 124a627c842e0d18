"""The answer of `samepage why` in each of its forms (`samepage.report.forms.WHY`)."""

from typing import TextIO

from samepage.analysis.why import Why
from samepage.analysis.write_stacks import write_stacks
from samepage.report import forms
from samepage.report.forms import Form
from samepage.report.tables import Terminal
from samepage.report.why import Observation, print_why, write_json, write_text
from samepage.snapshot.writes import WriteTable


def write_form(
    form: Form,
    why: Why,
    writes: WriteTable,
    seen: Observation,
    stream: TextIO,
    output: str | None,
    top: int,
) -> None:
    """Write one form; `top` rows of each table (0: all) where text goes to a terminal."""
    if form is forms.JSON:
        write_json(why, seen, stream)
    elif form is forms.TEXT and output is not None:
        write_text(why, seen, stream)
    elif form is forms.TEXT:
        print_why(why, seen, Terminal(stream), top=top or None)
    elif form is forms.HTML:
        from samepage.report.why_html import write_html

        write_html(why, seen, stream)
    else:
        from samepage.report import profiles

        stacks = write_stacks(why, writes)
        if form is forms.COLLAPSED:
            profiles.write_collapsed(stacks, stream)
        elif form is forms.SPEEDSCOPE:
            profiles.write_speedscope(stacks, stream)
        else:
            profiles.write_pprof(stacks, stream.buffer)
