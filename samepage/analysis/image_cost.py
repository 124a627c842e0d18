"""What one container of an image costs: pages that it has alone, and pages that all share.

Where its program ran on the model, the snapshot has them. Where it cannot run there, what the
dynamic loader writes is computed: the pages that relocation copies in each object of the
program. That leaves out heap and stack, which the answer states.
"""

from __future__ import annotations

from dataclasses import dataclass

from samepage.analysis.cost_tables import copied_pages
from samepage.analysis.image_links import config_of
from samepage.analysis.sharing import Sharing
from samepage.elf.header import ElfError
from samepage.errors import SamepageError
from samepage.images.image import Image
from samepage.images.limits import ImageError
from samepage.lab.environment import SEARCH_PATH
from samepage.linker.link import Linker
from samepage.linker.tree_memory import TreeMemory
from samepage.snapshot.columns import Snapshot


@dataclass(frozen=True, slots=True)
class ContainerCost:
    """The cost of one container, in pages.

    `private` are what each further container needs as well; `shared` are frames of files, which
    all containers of the image have in common. `ran`: from a run; otherwise `reason` has why it
    was computed.
    """

    arguments: tuple[str, ...]
    private: int
    shared: int
    ran: bool
    reason: str = ""


def cost_of_run(arguments: tuple[str, ...], snapshot: Snapshot, reason: str) -> ContainerCost:
    """The cost of a container whose processes are in a snapshot; `reason` is how it ended."""
    totals = Sharing(snapshot).totals
    private = totals.anonymous_frames + totals.shmem_frames
    return ContainerCost(arguments, private, totals.file_frames, True, reason)


def computed_cost(image: Image, reason: str) -> ContainerCost:
    """The cost of loading what the image starts. Raises `ImageError` if there is no program."""
    arguments = image.config.process.arguments
    if not arguments:
        raise ImageError(f"{image.name}: the image starts nothing by itself")
    path = arguments[0]
    candidates = [path] if "/" in path else []
    for directory in (
        () if candidates else image.config.process.variables.get("PATH", SEARCH_PATH).split(":")
    ):
        candidates.append(f"{directory}/{path}")
    found = (image.tree.lookup(candidate) for candidate in candidates)
    node = next((node for node in found if node is not None and node.entry.content), None)
    if node is None:
        raise ImageError(f"{image.name}: has no program {path!r}")
    memory = TreeMemory(image.tree, {}, image.config.process.directory)
    linker = Linker(memory, config_of(image, node), keep_going=True)
    try:
        result = linker.load(node.path, origin=node.path)
    except (SamepageError, ElfError) as error:
        raise ImageError(f"{image.name}: {error.message}") from None
    private = sum(copied_pages(link.object) for link in result.maps)
    return ContainerCost(arguments, private, 0, False, reason)
