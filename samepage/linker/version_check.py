"""Whether the libraries that were found have the versions that their users need.

This check comes before any symbol is looked up, and gives the error that everyone knows:
"version `GLIBC_2.38' not found (required by ...)". A library that has no versions at all
only earns a warning, since the symbols may still be there. Sources:
`_dl_check_all_versions`, `match_symbol` of glibc 2.36.
"""

from collections.abc import Iterator

from samepage.linker.maps import LinkMap


def check_versions(maps: list[LinkMap], by_name: dict[str, LinkMap]) -> Iterator[str]:
    """The complaints about missing versions, in load order of the users.

    `by_name` has the loaded objects by all their names.
    """
    defined: dict[str | None, set[tuple[str, int]] | None] = {}
    for link in maps:
        for version in link.object.versions.needed:
            file = version.file
            if file not in defined:
                defined[file] = _defined(by_name.get(file)) if file is not None else None
            available = defined[file]
            if (
                available is not None
                and (version.name, version.hash) not in available
                and not version.weak
            ):
                assert file is not None
                yield (
                    f"{by_name[file].name}: version `{version.name}' not found "
                    f"(required by {link.name})"
                )


def _defined(provider: LinkMap | None) -> set[tuple[str, int]] | None:
    """The versions of a library; None if it has none at all, or is missing itself, which
    has been complained about.
    """
    if provider is None:
        return None
    versions = provider.object.versions
    if not versions.defined and versions.base is None:
        return None
    return {(entry.name, entry.hash) for entry in versions.defined}
