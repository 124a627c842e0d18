"""`samepage demo`: the story of a shared library in memory, with the evidence."""

from samepage.cli.arguments import Parser, add_output
from samepage.cli.blas import use_one_thread
from samepage.cli.processor import need_models_processor
from samepage.report.forms import JSON, TEXT_OR_JSON, choose, writing


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add_output(parser, TEXT_OR_JSON)
    add(
        "--no-live",
        action="store_true",
        help="Only the model; start no process on this system.",
    )


def command(output: str | None, form: str | None, no_live: bool) -> None:
    """Show how two programs come to use the same physical pages of one library.

    Two real programs of this system run on the model machine and, where the kernel shows
    frame numbers (root), as real processes beside it, and are looked at after mmap, at the
    first call into the library, in the second program, after a write, and at their ends.
    With a C compiler, a second pair follows whose functions are known by name.
    """
    need_models_processor("demo")
    chosen = choose(output, form, TEXT_OR_JSON)
    use_one_thread()
    from samepage.demo.story import make_story
    from samepage.report.demo import print_story, write_json
    from samepage.report.tables import Terminal

    story = make_story(live=not no_live)
    with writing(output, chosen) as stream:
        if chosen is JSON:
            write_json(story, stream)
        else:
            print_story(story, Terminal(stream))
