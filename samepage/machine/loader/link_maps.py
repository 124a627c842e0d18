"""`struct link_map`: each object as glibc's functions see it.

`dlopen`, `dlsym`, `dl_iterate_phdr`, the unwinder and libc's own start code walk a list of
these. They are written once the objects are mapped, from what the linker knows: where an
object lies, its dynamic section by tag, its tables, its scope and its TLS.

`l_info` has a pointer to the entry of the dynamic section for each tag: first the tags of
the gABI by number, then the GNU ranges, each counted from its upper end.
"""

import os
import struct

from samepage.abi.elf import DynamicFlags, DynamicFlags1, SegmentFlags, SegmentType
from samepage.elf.dynamic import Tag
from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import PAGE
from samepage.machine.loader.heap import Heap
from samepage.machine.loader.ldso_layout import Flag, Map
from samepage.machine.loader.user_side import UserSide

_DT_NUM = 38
_VERSION_TAGS, _EXTRA_TAGS, _VALUE_TAGS, _ADDRESS_TAGS = 16, 3, 12, 11
_DYNAMIC_ENTRY = 16
_MISSING = (1 << 64) - 1
_BEHIND_MAP = 33


def info_index(tag: int) -> int | None:
    """The place of a dynamic tag in `l_info`, or None (`elf_get_dynamic_info`)."""
    start = _DT_NUM
    if tag < _DT_NUM:
        return tag
    if 0 <= 0x6FFFFFFF - tag < _VERSION_TAGS:
        return start + 0x6FFFFFFF - tag
    start += _VERSION_TAGS
    if 0 <= 0x7FFFFFFF - tag < _EXTRA_TAGS:
        return start + 0x7FFFFFFF - tag
    start += _EXTRA_TAGS
    if 0 <= 0x6FFFFDFF - tag < _VALUE_TAGS:
        return start + 0x6FFFFDFF - tag
    start += _VALUE_TAGS
    if 0 <= 0x6FFFFEFF - tag < _ADDRESS_TAGS:
        return start + 0x6FFFFEFF - tag
    return None


class LinkMaps:
    """Writes the link maps of a program. `places` has each one's address."""

    def __init__(self, user: UserSide, heap: Heap) -> None:
        self._user = user
        self._heap = heap
        self._result: LinkResult | None = None
        self.places: dict[LinkMap, int] = {}

    def reserve(self, link: LinkMap, audit: int = 0) -> None:
        """Allocate the map of an object when ld.so would, before the object is mapped,
        with what `_dl_new_object` allocates behind it: `audit` bytes for auditors, a
        pointer, a `struct libname_list` and the name.
        """
        size = Map.SIZE + audit + _BEHIND_MAP + len(link.name)
        self.places[link] = self._heap.allocate(size)

    def write(self, order: list[LinkMap], names: dict[LinkMap, int], result: LinkResult) -> None:
        """Write the maps of `order`, linked in that order; all have places.

        `names` has the addresses of names that are in memory already.
        """
        self._result = result
        main = self.places[order[0]]
        for index, link in enumerate(order):
            words = bytearray(Map.SIZE)
            following = self.places[order[index + 1]] if index + 1 < len(order) else 0
            previous = self.places[order[index - 1]] if index else 0
            _put(words, Map.NEXT, following, previous, self.places[link])
            _put(words, Map.NAME, names.get(link) or self._heap.store(_name(link)))
            self._describe(words, link)
            self._scope(words, link, main)
            if link.object.tls is not None:
                self._thread_local(words, link)
            self._user.store(self.places[link], bytes(words))

    def pointers(self, links: list[LinkMap]) -> int:
        """Store an array of link map pointers with a null at its end."""
        places = [self.places[link] for link in links if link in self.places]
        return self._heap.store(struct.pack(f"<{len(places) + 1}Q", *places, 0))

    def _describe(self, words: bytearray, link: LinkMap) -> None:
        elf = link.object.elf
        _put(words, Map.ADDR, link.base)
        dynamic = elf.segment(SegmentType.DYNAMIC)
        if dynamic is not None:
            _put(words, Map.LD, link.base + dynamic.vaddr)
            self._info(words, link, link.base + dynamic.vaddr)
        first = min(elf.loads, key=lambda load: load.vaddr)
        _put(words, Map.PHDR, link.base + first.vaddr - first.offset + elf.phoff)
        _put(words, Map.ENTRY, link.base + elf.entry if elf.entry else 0)
        struct.pack_into("<H", words, Map.PHNUM, len(elf.segments))
        _put(words, Map.MAP_START, link.start, link.end, _text_end(link))
        relro = link.object.relro
        if relro is not None:
            _put(words, Map.RELRO_ADDR, relro.vaddr, relro.memsz)
        if link.identity is not None and link.kind != MapKind.EXECUTABLE:
            _put(words, Map.FILE_ID, *link.identity)
            _put(words, Map.ORIGIN, self._heap.store(_origin(link)))
        _put(words, Map.SERIAL, link.index + 1 if link.identity and link.index else 0)
        struct.pack_into("<I", words, Map.USED, 1)
        struct.pack_into("<I", words, Map.FLAG_BITS, _flags(link))
        struct.pack_into("<I", words, Map.DIRECT_OPENCOUNT, link.kind == MapKind.EXECUTABLE)
        self._versions(words, link)
        self._hash(words, link)
        name = link.requested or link.object.soname or ""
        text = self._heap.store(name.encode(errors="surrogateescape") + b"\0")
        record = self._heap.store(struct.pack("<QQII", text, 0, 1, 0))
        _put(words, Map.LIBNAME, record)

    def _info(self, words: bytearray, link: LinkMap, at: int) -> None:
        entries = link.object.dynamic.entries
        found: dict[int, int] = {}
        for index, tag in enumerate(entries["d_tag"].tolist()):
            if tag == Tag.NULL:
                break
            place = info_index(tag)
            if place is not None:
                found[place] = at + _DYNAMIC_ENTRY * index
        struct.pack_into("<H", words, Map.LDNUM, len(entries))
        flags, flags_1 = link.object.dynamic.get(Tag.FLAGS), link.object.dynamic.get(Tag.FLAGS_1)
        if flags is not None:
            struct.pack_into("<I", words, Map.FLAGS, flags & 0xFFFFFFFF)
            for bit, tag in _FLAG_TAGS.items():
                if flags & bit:
                    found[tag] = found[Tag.FLAGS]
        if flags_1 is not None:
            struct.pack_into("<I", words, Map.FLAGS_1, flags_1 & 0xFFFFFFFF)
            if flags_1 & DynamicFlags1.NOW:
                found[Tag.BIND_NOW] = found[_DT_NUM + 0x6FFFFFFF - Tag.FLAGS_1]
        if Tag.RUNPATH in found:
            found.pop(Tag.RPATH, None)
        for place, address in found.items():
            _put(words, Map.INFO + 8 * place, address)

    def _versions(self, words: bytearray, link: LinkMap) -> None:
        versions = link.object.versions
        if versions.symbols is None:
            return
        _put(words, Map.VERSYMS, link.base + link.object.dynamic.value(Tag.VERSYM))
        entries = [*versions.defined, *versions.needed]
        if not entries:
            return
        count = max(entry.index for entry in entries) + 1
        table = bytearray(24 * count)
        strings: dict[str, int] = {}

        def text(name: str) -> int:
            if name not in strings:
                raw = name.encode(errors="surrogateescape") + b"\0"
                strings[name] = self._heap.store(raw)
            return strings[name]

        for entry in entries:
            file = text(entry.file) if entry.file is not None else 0
            record = (text(entry.name), entry.hash, entry.hidden << 15, file)
            struct.pack_into("<QIIQ", table, 24 * entry.index, *record)
        _put(words, Map.VERSIONS, self._heap.store(bytes(table)))
        struct.pack_into("<I", words, Map.NVERSIONS, count)

    def _hash(self, words: bytearray, link: LinkMap) -> None:
        table, sysv = link.object.gnu_hash, link.object.sysv_hash
        if table is not None:
            at = link.base + link.object.dynamic.value(Tag.GNU_HASH)
            buckets = at + 16 + 8 * len(table.bloom)
            chains = buckets + 4 * len(table.buckets) - 4 * table.symoffset
            header = (len(table.buckets), len(table.bloom) - 1, table.bloom_shift)
            struct.pack_into("<III", words, Map.NBUCKETS, *header)
            _put(words, Map.BITMASK, at + 16, buckets, chains)
        elif sysv is not None:
            at = link.base + link.object.dynamic.value(Tag.HASH)
            struct.pack_into("<I", words, Map.NBUCKETS, len(sysv.buckets))
            _put(words, Map.BUCKETS, at + 8 + 4 * len(sysv.buckets), at + 8)

    def _scope(self, words: bytearray, link: LinkMap, main: int) -> None:
        """The search list of the program, which all objects use, and dependencies."""
        result = self._result
        assert result is not None
        here = self.places[link]
        scopes = [main + Map.SEARCHLIST]
        if link.object.dynamic.flags & DynamicFlags.SYMBOLIC:
            _put(words, Map.SYMBOLIC_SEARCHLIST, self.pointers([link]), 1)
            scopes.insert(0, here + Map.SYMBOLIC_SEARCHLIST)
        _put(words, Map.SCOPE_MEM, *scopes)
        _put(words, Map.SCOPE_MAX, 4, here + Map.SCOPE_MEM, here + Map.SEARCHLIST)
        if link.kind == MapKind.EXECUTABLE:
            search_list = result.search_list
            _put(words, Map.SEARCHLIST, self.pointers(search_list), len(search_list))
            _put(words, Map.INITFINI, self.pointers(result.sorted))
        else:
            if link.loader is not None and link.loader in self.places:
                _put(words, Map.LOADER, self.places[link.loader])
            if link in result.maps:
                _put(words, Map.INITFINI, self.pointers([link, *link.needed]))
            else:  # the vDSO, in which libc searches for symbols: itself is its scope
                _put(words, Map.SEARCHLIST, here + Map.REAL, 1)

    def _thread_local(self, words: bytearray, link: LinkMap) -> None:
        tls = link.object.tls
        assert tls is not None
        image = link.base + tls.vaddr if tls.filesz else 0
        first = tls.vaddr & (max(tls.align, 1) - 1)
        _put(words, Map.TLS_INITIMAGE, image, tls.filesz, tls.memsz, tls.align, first)
        _put(words, Map.TLS_OFFSET, link.tls_offset, link.tls_module)


_FLAG_TAGS = {
    DynamicFlags.SYMBOLIC: Tag.SYMBOLIC,
    DynamicFlags.TEXTREL: Tag.TEXTREL,
    DynamicFlags.BIND_NOW: Tag.BIND_NOW,
}


def _put(words: bytearray, offset: int, *values: int) -> None:
    masked = (value & _MISSING for value in values)
    struct.pack_into(f"<{len(values)}Q", words, offset, *masked)


def _name(link: LinkMap) -> bytes:
    """`l_name`: the program's is empty."""
    if link.kind == MapKind.EXECUTABLE:
        return b"\0"
    return os.fsencode(link.name) + b"\0"


def _origin(link: LinkMap) -> bytes:
    return os.fsencode(os.path.dirname(link.name) or "/") + b"\0"


def _text_end(link: LinkMap) -> int:
    ends = [
        load.vaddr + load.memsz for load in link.object.elf.loads if load.flags & SegmentFlags.X
    ]
    end = link.base + max(ends, default=0)
    # ld.so rounds it up where it has mapped the object itself.
    return (end + PAGE - 1) & -PAGE if link.identity and link.index else end


def _flags(link: LinkMap) -> int:
    flags = Flag.RELOCATED | Flag.INIT_CALLED | Flag.GLOBAL | Flag.VISITED | Flag.CONTIGUOUS
    if link.kind != MapKind.EXECUTABLE:
        flags |= Flag.LIBRARY
    dynamic = link.object.elf.segment(SegmentType.DYNAMIC)
    if dynamic is not None and not dynamic.flags & SegmentFlags.W:
        flags |= Flag.LD_READONLY
    return flags | Flag.FIND_OBJECT_PROCESSED
