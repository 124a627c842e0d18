"""`samepage demo`: the story of a shared library in memory, with the evidence."""

import sys

from samepage.cli.arguments import Parser
from samepage.cli.blas import use_one_thread


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("--json", action="store_true", dest="as_json", help="Print the evidence as JSON.")
    add(
        "--no-live",
        action="store_true",
        help="Only the model; start no process on this system.",
    )


def command(as_json: bool, no_live: bool) -> None:
    """Show how two programs come to use the same physical pages of one library.

    Two real programs of this system run on the model machine and, where the kernel shows
    frame numbers (root), as real processes beside it, and are looked at after mmap, at the
    first call into the library, in the second program, after a write, and at their ends.
    With a C compiler, a second pair follows whose functions are known by name.
    """
    use_one_thread()
    from samepage.demo.story import tell_story
    from samepage.report.demo import print_story, write_json
    from samepage.report.tables import console_for

    story = tell_story(live=not no_live)
    if as_json:
        write_json(story, sys.stdout)
    else:
        print_story(story, console_for(sys.stdout))
