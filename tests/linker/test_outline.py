"""An outline leads to the same objects at the same addresses, bound to the same symbols."""

import numpy as np
import pytest

from samepage.elf.object import DynamicObject
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker, LinkResult
from samepage.linker.memory import Memory
from samepage.linker.outline import OutlineMemory
from samepage.linker.search import LinkerConfig
from samepage.linker.versions import VersionNumbers
from tests.linker.test_system_programs import PROGRAMS
from tests.linker.workshop import Workshop


def bound(path: str, memory: Memory, versions: VersionNumbers | None = None) -> LinkResult:
    linker = Linker(memory, LinkerConfig(), keep_going=True, versions=versions)
    result = linker.load(path)
    linker.bind(result)
    return result


def agree(ours: LinkResult, image: LinkResult) -> None:
    assert [(link.name, link.base, link.end) for link in ours.maps] == [
        (link.name, link.base, link.end) for link in image.maps
    ]
    assert (ours.errors, ours.warnings) == (image.errors, image.warnings)
    for link, other in zip(ours.maps, image.maps, strict=True):
        if link in ours.references:
            found, expected = ours.references[link], image.references[other]
            assert np.array_equal(found.definer, expected.definer)
            assert np.array_equal(found.definition, expected.definition)


def test_programs_that_share_what_is_read() -> None:
    parsed: dict[tuple[int, int], DynamicObject] = {}
    versions = VersionNumbers()
    for path in PROGRAMS:
        ours = bound(path, OutlineMemory(parsed=parsed), versions)
        agree(ours, bound(path, ImageMemory()))


def test_a_program_at_its_own_addresses_with_alignments(workshop: Workshop) -> None:
    workshop.library("liba.so", "int a(void){return 1;}", "-Wl,-z,max-page-size=0x200000")
    path = workshop.program("int a(void); int main(){return a();}", "-la", "-no-pie")
    agree(bound(path, OutlineMemory()), bound(path, ImageMemory()))


def test_nothing_can_be_read_of_it() -> None:
    with pytest.raises(AssertionError):
        OutlineMemory().read(0x1000, 8)
