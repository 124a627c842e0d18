"""Whether the libraries that were found have the versions that their users need.

This check comes before any symbol is looked up, and gives the error that everyone knows:
"version `GLIBC_2.38' not found (required by ...)". A library that has no versions at all
only earns a warning, since the symbols may still be there, and so does a version that is
only needed weakly. But where a reference that wants a version of such a library is then bound
to it, ld.so ends with a failed assertion (`missing_tables`).

An object with DT_RELR has to need the version GLIBC_ABI_DT_RELR of libc if it needs any: an
older libc, which would not apply DT_RELR, refuses it then.

Sources: `_dl_check_all_versions`, `_dl_check_map_versions`, `match_symbol`, `check_match` of
glibc 2.36.
"""

from collections.abc import Iterator

from samepage.elf.dynamic import Tag
from samepage.elf.versions import RELR_VERSION
from samepage.linker.errors import FailedAssertion, LinkError
from samepage.linker.maps import LinkMap
from samepage.linker.references import Bindings, symbol_and_version
from samepage.linker.rules import LdsoRules


def check_versions(
    maps: list[LinkMap],
    by_name: dict[str, LinkMap],
    missing: set[str],
    rules: LdsoRules,
    warnings: list[str],
) -> Iterator[LinkError]:
    """The complaints about missing versions, in load order of the users.

    `by_name` has the loaded objects by the names that they were asked for, `missing` the
    libraries that were not found, which has been complained about. What does not end the link
    is added to `warnings`.

    A library whose versions are needed, but which itself no longer is (its DT_NEEDED has been
    removed or renamed), is one that ld.so expects to find loaded.
    """
    defined: dict[str | None, frozenset[tuple[str, int]] | None] = {}
    for link in maps:
        stale: set[str] = set()
        for version in link.object.versions.needed:
            file = version.file
            provider = by_name.get(file) if file is not None else None
            if provider is None:
                if file not in missing and file not in stale:
                    stale.add(file or "")
                    yield FailedAssertion(
                        f"{link.name}: needs version {version.name} of {file}, which is not loaded",
                        "_dl_check_map_versions",
                        "needed != NULL",
                    )
                continue
            if file not in defined:
                defined[file] = provider.object.defined_versions
            available = defined[file]
            required = f"(required by {link.name})"
            if available is None:
                warnings.append(f"{provider.name}: no version information available {required}")
            elif (version.name, version.hash) not in available:
                message = f"version `{version.name}' not found {required}"
                if version.weak:
                    warnings.append(f"{provider.name}: weak {message}")
                else:
                    yield LinkError(f"{provider.name}: {message}", 1)
        packs = rules.packs_relative and link.object.dynamic.get(Tag.RELR) is not None
        if packs and not _may_pack(link, by_name):
            yield LinkError(f"{link.name}: DT_RELR without {RELR_VERSION} dependency", 1)


def missing_tables(
    bindings: Bindings, by_name: dict[str, LinkMap], is_lazy: list[bool]
) -> Iterator[LinkError]:
    """The references, in the order of relocation, that end ld.so: they want a version of the
    library that they are bound to, which has no table of versions. Those that wait for their
    first call (`is_lazy`, by object) do so only then.
    """
    tables = bindings.tables
    definers = tables.owners(bindings.definitions)
    bound = bindings.looked_up & (definers >= 0)
    bound[bound] = ~tables.has_versions[definers[bound]]
    for reference in bound.nonzero()[0].tolist():
        owner = int(tables.owners(bindings.rows[reference : reference + 1])[0])
        if is_lazy[owner] and bindings.lazy[reference]:
            continue
        user, definer = bindings.links[owner], tables.links[int(definers[reference])]
        symbol = int(bindings.rows[reference] - tables.first[owner])
        file = user.object.versions.file_of(symbol)
        if file is not None and by_name.get(file) is definer:
            yield FailedAssertion(
                f"{user.name}: {symbol_and_version(user, symbol)}: "
                f"{definer.name} has no version information",
                "check_match",
                "version->filename == NULL || ! _dl_name_match_p (version->filename, map)",
            )


def _may_pack(link: LinkMap, by_name: dict[str, LinkMap]) -> bool:
    of_libc = {
        version.name
        for version in link.object.versions.needed
        if version.file is not None
        and version.file.startswith("libc.so.")
        and version.file in by_name
    }
    return not of_libc or RELR_VERSION in of_libc
