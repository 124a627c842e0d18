"""The order in which constructors run, and destructors in reverse.

An object's constructors must run after those of the objects that it depends on.
glibc's algorithm (`rtld.dynamic_sort=2`, the default since 2.35) is a depth-first search
over the dependencies that starts from the end of the list and writes each object in
front of what has been written once all of its dependencies are done: reverse postorder.
The program always stays first. Constructors run from the end of the list.

A loop instead of recursion: the depth of a hostile chain of libraries is unbounded.
Source: `_dl_sort_maps_dfs`, `dfs_traversal` of glibc 2.36.
"""

from collections.abc import Iterator

from samepage.linker.maps import LinkMap


def sort_maps(maps: list[LinkMap], force_first: bool = True) -> list[LinkMap]:
    """`maps` sorted so that each object comes before those that it needs.

    Dependencies outside of the list are followed as glibc follows them. With
    `force_first` the first object keeps its place.
    """
    visited: set[LinkMap] = set()
    postorder: list[LinkMap] = []
    root = maps[0] if force_first and maps else None
    for start in reversed(maps):
        if start in visited:
            continue
        visited.add(start)
        # The program's own dependencies are not followed: it is first anyway.
        stack = [(start, iter(() if start is root else start.needed))]
        while stack:
            current, dependencies = stack[-1]
            advanced = _next_unvisited(dependencies, visited, root)
            if advanced is None:
                stack.pop()
                postorder.append(current)
            else:
                visited.add(advanced)
                stack.append((advanced, iter(advanced.needed)))
    wanted = set(maps)
    return [link for link in reversed(postorder) if link in wanted]


def _next_unvisited(
    dependencies: Iterator[LinkMap], visited: set[LinkMap], root: LinkMap | None
) -> LinkMap | None:
    for dependency in dependencies:
        if dependency not in visited and dependency is not root:
            return dependency
    return None
