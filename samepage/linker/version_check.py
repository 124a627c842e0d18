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
    defined: dict[LinkMap, set[tuple[str, int]] | None] = {}
    for link in maps:
        for version in link.object.versions.needed:
            assert version.file is not None
            provider = by_name.get(version.file)
            if provider is None:
                continue  # the library itself is missing, and has been complained about
            if provider not in defined:
                versions = provider.object.versions
                has_any = bool(versions.defined) or versions.base is not None
                defined[provider] = (
                    {(entry.name, entry.hash) for entry in versions.defined} if has_any else None
                )
            available = defined[provider]
            key = (version.name, version.hash)
            if available is not None and key not in available and not version.weak:
                yield (
                    f"{provider.name}: version `{version.name}' not found (required by {link.name})"
                )
