"""What an object exports, by name: for the few symbols that a loader must know itself."""

from samepage.linker.maps import LinkMap


def exported(link: LinkMap, name: str) -> tuple[int, int]:
    """Value and size of a symbol that an object defines; zeros if it does not."""
    item = link.object
    for record in item.symbols:
        if record["st_shndx"] and item.strings.get(int(record["st_name"])) == name:
            return int(record["st_value"]), int(record["st_size"])
    return 0, 0
