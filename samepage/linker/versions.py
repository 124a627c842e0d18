"""Versions as numbers: each (name, hash) of any object is one number for a whole link.

Two versions are the same if their hashes and names are. Comparing numbers instead lets
binding compare the versions of thousands of symbols at once. Source:
`_dl_check_map_versions` of glibc 2.36, which fills `l_versions` of each object.
"""

from collections.abc import Iterable

from samepage.elf.object import DynamicObject
from samepage.linker.maps import LinkMap
from samepage.records import record


@record(frozen=True)
class VersionTable:
    """`l_versions` of one object, by version index: the version's number, and whether a
    reference that has it takes no base definition in its stead.
    """

    numbers: list[int]
    exact: list[bool]


class VersionNumbers:
    """Numbers for versions, from 1; 0 means "no version" (`hash == 0`).

    They are the same whatever else is loaded, so one may serve several links.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int], int] = {}
        self._tables: dict[DynamicObject, VersionTable] = {}
        self.names: list[str] = [""]

    def of(self, link: LinkMap) -> VersionTable:
        """The version table of an object."""
        table = self._tables.get(link.object)
        if table is None:
            table = self._tables[link.object] = self._build(link.object)
        return table

    def forget(self, links: Iterable[LinkMap]) -> None:
        """Forget the tables of objects; numbers stay."""
        for link in links:
            self._tables.pop(link.object, None)

    def number(self, version: tuple[str, int]) -> int:
        """The number of the version with this name and hash."""
        number = self._numbers.get(version)
        if number is None:
            number = self._numbers[version] = len(self.names)
            self.names.append(version[0])
        return number

    def _build(self, item: DynamicObject) -> VersionTable:
        versions = item.versions
        entries = [*versions.defined, *versions.needed]
        size = max([entry.index for entry in entries], default=0) + 1
        numbers, exact = [0] * size, [False] * size
        known, number = self._numbers.get, self.number
        for entry in entries:
            if entry.hash:
                version = (entry.name, entry.hash)
                numbers[entry.index] = known(version) or number(version)
                exact[entry.index] = entry.hidden
        return VersionTable(numbers, exact)
