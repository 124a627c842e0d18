"""The order in which constructors run, and destructors in reverse.

An object's constructors must run after those of the objects that it depends on.
glibc's algorithm (`rtld.dynamic_sort=2`, the default since 2.35) is a depth-first search
over the dependencies that starts from the end of the list and writes each object in
front of what has been written once all of its dependencies are done: reverse postorder.
The program always stays first. Constructors run from the end of the list.

A loop instead of recursion: the depth of a hostile chain of libraries is unbounded.

Before 2.35, and with `glibc.rtld.dynamic_sort=1`, each object moves behind the last one that
needs it until none has to move, where cycles are broken by counting how often an object has
been looked at. Source: `_dl_sort_maps_dfs`, `dfs_traversal` and `_dl_sort_maps_original` of
glibc 2.36.
"""

from collections.abc import Iterator

from samepage.abi.elf import DynamicFlags1
from samepage.linker.maps import LinkMap


def sort_by_moving(maps: list[LinkMap]) -> list[LinkMap]:
    """`maps` in the order of `_dl_sort_maps_original`. The first object keeps its place."""
    rest = list(maps[1:])
    count = len(rest)
    seen = [0] * count
    at = 0
    while at < count:
        seen[at] += 1
        current = rest[at]
        users = (k for k in range(count - 1, at, -1) if current in rest[k].followed)
        last = next(users, None)
        if last is None:
            at += 1
            seen[at:] = [0] * (count - at)
            continue
        rest.insert(last, rest.pop(at))
        if seen[at + 1] > count - at:
            # It has come back too often: a cycle, which is left as it is.
            at += 1
            seen[at:] = [0] * (count - at)
            continue
        seen.insert(last, seen.pop(at))
    return [*maps[:1], *rest]


def sort_maps(maps: list[LinkMap], follow_first: bool = False) -> list[LinkMap]:
    """`maps` sorted so that each object comes before those that it needs.

    Dependencies outside of the list are followed as glibc follows them. The first object keeps
    its place. Its own dependencies are not followed, unless `follow_first`: it has no list of
    them (`l_initfini`) before the first sort, but for one that others have needed before.
    """
    visited: set[LinkMap] = set()
    postorder: list[LinkMap] = []
    root = maps[0] if maps and not follow_first else None
    for start in reversed(maps):
        if start in visited:
            continue
        visited.add(start)
        # The program's own dependencies are not followed: it is first anyway.
        stack = [(start, iter(() if start is root else start.followed))]
        while stack:
            current, dependencies = stack[-1]
            advanced = _next_unvisited(dependencies, visited, root)
            if advanced is None:
                stack.pop()
                postorder.append(current)
            else:
                visited.add(advanced)
                stack.append((advanced, iter(advanced.followed)))
    wanted = set(maps[1:])
    return [*maps[:1], *(link for link in reversed(postorder) if link in wanted)]


def constructor_order(ordered: list[LinkMap]) -> list[LinkMap]:
    """Objects that have just been loaded and sorted, in the order of their constructors.

    One with DF_1_INITFIRST comes before all: of several, the one that was mapped last
    (`_dl_map_object_from_fd` keeps one, `GL(dl_initfirst)`, which `_dl_init` takes up).
    """
    order = list(reversed(ordered))
    flagged = [link for link in order if link.object.dynamic.flags_1 & DynamicFlags1.INITFIRST]
    mapped = [link for link in flagged if not link.by_kernel]
    if mapped:
        first = max(mapped, key=lambda link: link.index)
        order.remove(first)
        order.insert(0, first)
    return order


def _next_unvisited(
    dependencies: Iterator[LinkMap], visited: set[LinkMap], root: LinkMap | None
) -> LinkMap | None:
    for dependency in dependencies:
        if dependency not in visited and dependency is not root:
            return dependency
    return None
