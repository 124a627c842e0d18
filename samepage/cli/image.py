"""`samepage image`: container images, before anything is deployed."""

from __future__ import annotations

from samepage.cli.arguments import Parser, add_output, add_top, number
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.report.forms import IMAGE_FORMS, JSON, MARKDOWN, choose, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.analysis.image_cost import ContainerCost
    from samepage.images.image import Image

FINDINGS = (
    "missing-library",
    "missing-version",
    "missing-symbol",
    "missing-interpreter",
    "wrong-architecture",
    "run-path-leaves-image",
    "damaged",
)
USAGE = "[OPTION]... IMAGE..."


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="An OCI layout or archive, an archive of docker save, a layer's directory of "
        "docker's or Podman's overlay storage, or an unpacked root; :TAG chooses one of several.",
    )
    add(
        "--diff",
        action="store_true",
        help="Compare two versions: the libraries that changed, and the pages that an upgrade "
        "un-shares while both run.",
    )
    add(
        "--cost",
        action="store_true",
        help="Run what each image starts on the model machine, and count what a container costs.",
    )
    add(
        "--timeout",
        type=number(float, 0, above=True),
        default=20.0,
        metavar="SECONDS",
        help="For --cost: how long it may run (default: %(default)s).",
    )
    add(
        "--platform",
        metavar="ARCHITECTURE",
        help="Of an image for several platforms, the one to read: amd64, arm64 (default: this "
        "machine's).",
    )
    add(
        "--fail-on",
        default="",
        metavar="FINDING,...",
        help="Exit with 1 if there is one of these: " + ", ".join(FINDINGS) + ".",
    )
    add(
        "--max-private",
        type=number(int, 0),
        metavar="PAGES",
        help="Exit with 1 if a container has more pages alone (implies --cost).",
    )
    add_output(parser, IMAGE_FORMS)
    add_top(parser)


def command(
    images: list[str],
    diff: bool,
    cost: bool,
    timeout: float,
    platform: str | None,
    fail_on: str,
    max_private: int | None,
    output: str | None,
    form: str | None,
    top: int,
) -> int:
    """Show whether all programs of a container image will link, what images share on one host,
    what they lose and why, and what a container costs.

    No code of an image runs, but with --cost, in the emulator. An image is only read.

        samepage image app.tar base.tar
        samepage image --diff layout:v1 layout:v2 -f markdown
        samepage image --fail-on missing-library,missing-symbol app.tar
    """
    chosen = choose(output, form, IMAGE_FORMS)
    wanted = _findings(fail_on)
    if diff and len(images) != 2:
        raise SamepageError(f"--diff compares two images, not {len(images)}")
    cost = cost or max_private is not None
    use_one_thread()
    from samepage.analysis.image_diff import diff_images
    from samepage.analysis.image_links import check_links, fails
    from samepage.analysis.image_sharing import copied_up, share_images
    from samepage.images.source import read_image
    from samepage.images.store import Store
    from samepage.report.image import Answers, ImageAnswer, write_json, write_markdown, write_text

    keep = _everything if cost else _for_the_linker
    answers = Answers([])
    with Store() as store:
        for argument in images:
            image = read_image(argument, store, keep, _architecture(platform))
            answer = ImageAnswer(image, check_links(image), copied_up(image))
            if cost:
                answer.cost = _cost(image, timeout)
            answers.images.append(answer)
        read = [answer.image for answer in answers.images]
        if len(read) > 1:
            answers.sharing = share_images(read)
        if diff:
            answers.changes = diff_images(*read)
        with writing(output, chosen) as stream:
            if chosen is JSON:
                write_json(answers, stream)
            elif chosen is MARKDOWN:
                write_markdown(answers, stream, top=top or None)
            else:
                write_text(answers, stream, top=top or None)
    over = max_private is not None and any(
        answer.cost is not None and answer.cost.private > max_private for answer in answers.images
    )
    broken = any(answer.links and fails(answer.links, wanted) for answer in answers.images)
    return int(over or broken)


def _findings(text: str) -> list[str]:
    wanted = [part for part in text.split(",") if part]
    for part in wanted:
        if part not in FINDINGS:
            raise SamepageError(f"--fail-on {part}: there are {', '.join(FINDINGS)}")
    return wanted


def _architecture(platform: str | None) -> str | None:
    """`linux/arm64` and `arm64` mean the same."""
    if platform is None:
        return None
    parts = platform.split("/")
    return parts[1] if len(parts) > 1 else parts[0]


def _everything(path: str, start: bytes) -> bool:
    return True


def _for_the_linker(path: str, start: bytes) -> bool:
    from samepage.linker.tree_memory import is_linker_file

    return start.startswith(b"\x7fELF") or is_linker_file(path)


def _cost(image: Image, timeout: float) -> ContainerCost | None:
    """Run what the image starts; where it cannot run here, compute what loading it costs."""
    import sys

    from samepage.analysis.image_cost import computed_cost, cost_of_run

    if not image.config.process.arguments:
        return None
    architecture = image.config.architecture
    if architecture not in ("amd64", ""):
        print(f"samepage: {image.name}: programs for {architecture} are not run", file=sys.stderr)
        return None
    from samepage.cli.images import of_image
    from samepage.kernel.fs.rootfs import TreeRoot
    from samepage.machine import Machine

    start = of_image(image, TreeRoot(image.name, image.tree), (), {})
    machine = Machine("8G", root=start.root, timeout=timeout)
    try:
        guest = machine.spawn(
            list(start.programs[0]), env=start.environment, cwd=start.directory, user=start.user
        )
    except SamepageError as error:
        return computed_cost(image, error.message)
    reason = "It ran to its end."
    try:
        status = machine.run(guest)
        if status:
            return computed_cost(image, f"on the model it ends with status {status}")
    except SamepageError as error:
        reason = f"It was looked at when it had run so far: {error.message}."
    return cost_of_run(image.config.process.arguments, machine.snapshot(), reason)
