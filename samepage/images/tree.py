"""The files that a container sees: layers stacked as overlayfs stacks them.

From the lowest layer up, a layer hides names, makes directories opaque, and adds its entries. A
directory over a directory merges, with the attributes of the upper; anything else replaces what
is below it with all its names (`ovl_lookup`: the first layer that has a name which is no
directory ends the search).

Names resolve as in a container: a link's absolute target starts at the image's root, and `..`
never leaves it. An entry below something that is no directory is refused, so no archive can
write through a link.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from samepage.images.layer import Content, Entry, Layer
from samepage.images.limits import ImageError

MAXSYMLINKS = 40
"""`path_init`: more links in one path are ELOOP."""


class Node:
    """One name of the tree. `names` has a directory's entries, None for anything else.

    `layer` is the one whose file it is: the number of the layer, from the lowest, 0.
    """

    __slots__ = ("entry", "layer", "name", "names", "parent")

    def __init__(self, entry: Entry, layer: int, name: str, parent: Node | None) -> None:
        self.entry = entry
        self.layer = layer
        self.name = name
        self.parent = parent
        self.names: dict[str, Node] | None = {} if entry.is_directory else None

    @property
    def path(self) -> str:
        """The absolute path within the image."""
        parts: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return "/" + "/".join(reversed(parts))


class Replaced:
    """A file that an upper layer replaced: both contents, and the layers' numbers."""

    __slots__ = ("lower", "lower_layer", "path", "upper", "upper_layer")

    def __init__(self, path: str, lower: Node, upper: Node) -> None:
        assert lower.entry.content is not None
        assert upper.entry.content is not None
        self.path = path
        self.lower, self.lower_layer = lower.entry.content, lower.layer
        self.upper, self.upper_layer = upper.entry.content, upper.layer


class Tree:
    """The merged files of an image."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        """Raises `ImageError` for an entry whose parent is no directory."""
        self.root = Node(Entry(stat.S_IFDIR | 0o755, 0, 0, 0), 0, "", None)
        self.replaced: list[Replaced] = []
        for number, layer in enumerate(layers):
            self._stack(number, layer)

    def _stack(self, number: int, layer: Layer) -> None:
        # Marks speak of what lies below, whatever their place in the archive.
        for path in layer.opaque:
            node = self._lower(path)
            if node is not None and node.names is not None:
                node.names = {}
        for path in layer.hidden:
            node = self._lower(path)
            if node is not None and node.parent is not None and node.parent.names is not None:
                del node.parent.names[node.name]
        for path, entry in layer.entries.items():
            self._add(number, path, entry)

    def _lower(self, path: str) -> Node | None:
        node = self.root
        for name in path.split("/") if path else ():
            found = node.names.get(name) if node.names is not None else None
            if found is None:
                return None
            node = found
        return node

    def _add(self, number: int, path: str, entry: Entry) -> None:
        directory, _, name = path.rpartition("/")
        parent = self._directory(number, directory)
        if not name:
            self.root.entry = entry
            return
        assert parent.names is not None
        below = parent.names.get(name)
        if below is not None and below.names is not None and entry.is_directory:
            below.entry, below.layer = entry, number
            return
        node = Node(entry, number, name, parent)
        if below is not None and below.layer != number and below.entry.content and entry.content:
            self.replaced.append(Replaced("/" + path, below, node))
        parent.names[name] = node

    def _directory(self, number: int, path: str) -> Node:
        """The directory at `path`; one that no layer has an entry for is made, as runtimes do."""
        node = self.root
        for name in path.split("/") if path else ():
            assert node.names is not None
            found = node.names.get(name)
            if found is None:
                found = Node(Entry(stat.S_IFDIR | 0o755, 0, 0, 0), number, name, node)
                node.names[name] = found
            if found.names is None:
                # An upper layer's directory replaces a file or link below it.
                if found.layer == number:
                    raise ImageError(f"/{path}: lies below {name!r}, which is no directory")
                entry = Entry(stat.S_IFDIR | 0o755, 0, 0, 0)
                found = node.names[name] = Node(entry, number, name, node)
            node = found
        return node

    def lookup(self, path: str, *, follow: bool = True) -> Node | None:
        """The node that an absolute path leads to, None if there is none.

        With `follow` a link at the end is followed, too.
        """
        waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        node, links = self.root, 0
        while waiting:
            name, names = waiting.pop(), node.names
            if names is None:
                return None
            if name == "..":
                node = node.parent or node
                continue
            found = names.get(name)
            if found is None:
                return None
            if found.entry.is_symlink and (waiting or follow):
                links += 1
                if links > MAXSYMLINKS:
                    return None
                target = found.entry.target
                if target.startswith("/"):
                    node = self.root
                waiting += [part for part in reversed(target.split("/")) if part not in ("", ".")]
                continue
            node = found
        return node

    def walk(self) -> Iterator[Node]:
        """All nodes below the root, each directory before its entries, by name."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            if node is not self.root:
                yield node
            if node.names is not None:
                waiting += [node.names[name] for name in sorted(node.names, reverse=True)]

    def elf_files(self) -> Iterator[tuple[Node, Content]]:
        """The ELF files whose bytes were kept, each content once, at its first path."""
        seen: set[int] = set()
        for node, content in self.files():
            if id(content) not in seen:
                seen.add(id(content))
                if content.is_elf:
                    yield node, content

    def files(self) -> Iterator[tuple[Node, Content]]:
        """The regular files, hard links each."""
        for node in self.walk():
            if node.entry.content is not None:
                yield node, node.entry.content
