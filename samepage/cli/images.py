"""Container images on the command line: what programs start with, and the files they see."""

from __future__ import annotations

import os

from samepage.errors import SamepageError
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence

    from samepage.images.image import Image
    from samepage.kernel.fs.rootfs import RootFs
    from samepage.lab.commands import Commands


@record(frozen=True)
class Start:
    """Programs, and what they start with; `user` has the user's and the group's number."""

    programs: Commands
    environment: dict[str, str]
    root: str | RootFs
    directory: str | None = None
    user: tuple[int, int] | None = None


def start_image(
    name: str | None,
    root: str,
    layers: Sequence[str],
    programs: Commands,
    settings: dict[str, str],
    inherited: dict[str, str],
    stack: contextlib.ExitStack,
) -> Start:
    """Start programs in the files of the image `name`, with its settings; or (None) in those of
    `root`, with the environment `inherited`. `layers` are directories on top, `settings` the
    variables that the user sets.

    The files stay until `stack` ends. Raises `SamepageError`.
    """
    from samepage.images.directory_layer import read_directory_layer
    from samepage.images.layer import Layer
    from samepage.images.source import is_plain, read_image
    from samepage.images.store import Store
    from samepage.images.tree import Tree
    from samepage.kernel.fs.rootfs import TreeRoot

    if name is not None and root != "/":
        raise SamepageError("--image and --root both name what the programs see as /: give one")
    upper = []
    for place in layers:
        layer = Layer(place)
        read_directory_layer(place, layer)
        upper.append(layer)
    source = name if name is not None else root
    if name is None and os.path.isdir(source) and is_plain(source):
        covered = {path for layer in upper for path in layer.hidden | layer.opaque}
        files = TreeRoot(source, Tree(upper), source, covered)
        return Start(programs, {**inherited, **settings}, files)
    store = stack.enter_context(Store())
    image = read_image(source, store, lambda path, start: True)
    image.layers += upper
    files = TreeRoot(source, image.tree)
    if name is None:
        return Start(programs, {**inherited, **settings}, files)
    return of_image(image, files, programs, settings)


def of_image(image: Image, files: RootFs, programs: Commands, settings: dict[str, str]) -> Start:
    """Start programs in the files of an image, or (none given) what it starts by itself.

    Raises `SamepageError` if it starts nothing.
    """
    from samepage.images.user import user_of
    from samepage.lab.environment import SEARCH_PATH

    process = image.config.process
    uid, gid, home = user_of(image)
    # Runtimes set these two where an image does not.
    environment = {"PATH": SEARCH_PATH, "HOME": home, **process.variables, **settings}
    if not programs:
        if not process.arguments:
            raise SamepageError(f"{image.name}: the image starts nothing by itself: name a program")
        programs = (process.arguments,)
    return Start(programs, environment, files, process.directory, (uid, gid))
