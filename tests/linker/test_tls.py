"""The static TLS layout: blocks are aligned, disjoint, and within the area."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.elf.object import TlsImage
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.tls import TCB_SIZE, assign_modules, layout_static_tls


@dataclass
class _Object:
    tls: TlsImage | None
    soname: None = None


SEGMENTS = st.lists(
    st.none()
    | st.builds(
        TlsImage,
        st.integers(0, 1 << 12),
        st.just(0),
        st.integers(1, 5000),
        st.sampled_from([1, 2, 8, 16, 64, 128, 4096]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(SEGMENTS)
def test_blocks_are_aligned_and_disjoint(segments: list[TlsImage | None]) -> None:
    maps = [
        LinkMap(f"lib{index}", _Object(tls), MapKind.LIBRARY, None, index=index)  # type: ignore[arg-type]
        for index, tls in enumerate(segments)
    ]
    assign_modules(maps)
    layout = layout_static_tls(maps, surplus=1664)
    taken: list[tuple[int, int]] = []
    modules = []
    for link in maps:
        tls = link.object.tls
        if tls is None:
            assert link.tls_offset == link.tls_module == 0
            continue
        modules.append(link.tls_module)
        start = -link.tls_offset
        assert (start - tls.vaddr) % tls.align == 0
        assert start + tls.memsz <= 0
        assert all(start + tls.memsz <= low or high <= start for low, high in taken)
        taken.append((start, start + tls.memsz))
    assert modules == list(range(1, len(modules) + 1))
    assert layout.used + TCB_SIZE <= layout.size
    assert all(-layout.used <= low for low, _ in taken)
