"""The cost that is read from a file is what the kernel counts in a process.

The oracle: a program that loads the library is held right after relocation, and the
kernel's pagemap shows which pages of the library are private copies.
"""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from samepage.abi.elf import ElfMachine
from samepage.analysis.cost import Cost, PageState, cost_of
from samepage.analysis.savings import relr_size
from samepage.elf.dynamic import Tag
from samepage.elf.header import ElfError
from samepage.elf.machines import MACHINES, Kind
from samepage.elf.object import DynamicObject
from samepage.elf.sections import read_sections
from samepage.errors import SamepageError
from samepage.trace.ldso import LdsoRun, observe
from tests.linker.workshop import Workshop

GIT_LIBRARIES = ("libz.so", "libpcre2-8.so")


def copied_pages(pid: int, path: str) -> set[int]:
    """The file offsets in pages of a file's pages that a process has as private copies.

    Offsets do not name pages of two segments twice here: only writable ones count.
    """
    pages = set()
    with (
        open(f"/proc/{pid}/maps", encoding="utf-8") as maps,
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap,
    ):
        for line in maps:
            fields = line.split(maxsplit=5)
            if len(fields) < 6 or fields[5].strip() != path:
                continue
            start, end = (int(part, 16) for part in fields[0].split("-"))
            pagemap.seek(start // 4096 * 8)
            data = pagemap.read((end - start) // 4096 * 8)
            for number, (entry,) in enumerate(struct.iter_unpack("<Q", data)):
                if entry >> 63 and not entry >> 61 & 1:
                    pages.add(int(fields[2], 16) // 4096 + number)
    return pages


def predicted(cost: Cost, library: DynamicObject) -> set[int]:
    """The same from the file: addresses of copied pages as file offsets."""
    result = set()
    for page in cost.pages:
        if page.state is not PageState.COPIED:
            continue
        for load in library.elf.loads:
            if (
                load.flags & 2
                and load.vaddr // 4096 * 4096 <= page.address < load.vaddr + load.memsz
            ):
                result.add((page.address - load.vaddr // 4096 * 4096 + load.offset) // 4096)
    return result


def both(program: str, names: tuple[str, ...]) -> list[tuple[str, set[int], set[int]]]:
    results = []

    def look(run: LdsoRun) -> None:
        for file in run.files:
            if any(name in file.path for name in names):
                library = DynamicObject.open(file.path)
                cost = cost_of(library)
                results.append(
                    (file.path, copied_pages(run.pid, file.path), predicted(cost, library))
                )

    try:
        observe(program, {"PATH": "/usr/bin"}, bind_now=False, on_relocated=look)
    except SamepageError as error:
        if "trace" in error.message:
            pytest.skip(error.message)
        raise
    return results


@pytest.mark.skipif(not os.path.exists("/usr/bin/git"), reason="no git")
def test_system_libraries() -> None:
    results = both("/usr/bin/git", GIT_LIBRARIES)
    assert len(results) == 2
    for path, real, ours in results:
        assert ours == real, path


def test_a_library_of_each_kind_of_store(tmp_path: Path) -> None:
    if subprocess.run(["gcc", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("no C compiler")
    workshop = Workshop(tmp_path)
    source = (
        "extern int printf(const char *, ...); int target, bss[5000];"
        "int *pointers[2000] = {&target, [1999] = &target}; int plain[3000] = {1};"
        'const int constant[4000] = {2}; int f(void){return printf("x") + bss[1] + plain[2];}'
    )
    workshop.library("libkinds.so", source)
    workshop.library("libnow.so", source, "-Wl,-z,now")
    workshop.library("libpacked.so", source, "-Wl,-z,pack-relative-relocs")
    program = workshop.program(
        "int f(void); int main(){return f();}", "-lkinds", "-lnow", "-lpacked"
    )
    results = both(program, ("libkinds", "libnow", "libpacked"))
    assert len(results) == 3
    for path, real, ours in results:
        assert ours == real, path
    cost = cost_of(DynamicObject.open(str(tmp_path / "libkinds.so")))
    assert cost.count(PageState.UNTIL_WRITTEN) >= 2
    assert cost.count(PageState.ANONYMOUS) >= 4
    causes = {cause.symbol for page in cost.pages for cause in page.causes}
    assert {"target", "printf"} <= causes


def test_packing_is_computed_as_the_linker_packs(tmp_path: Path) -> None:
    if subprocess.run(["gcc", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("no C compiler")
    workshop = Workshop(tmp_path)
    table = ", ".join("&target" if number % 3 else "0" for number in range(1000))
    source = f"static int target; int *table[] = {{{table}}};"
    plain = DynamicObject.open(workshop.library("libplain.so", source))
    packed = DynamicObject.open(
        workshop.library("libpacked.so", source, "-Wl,-z,pack-relative-relocs")
    )
    sizes = [section.size for section in read_sections(packed.elf) if section.name == ".relr.dyn"]
    assert [relr_size(packed.relocations.relr, 8)] == sizes
    saving = [s for s in cost_of(plain).savings if "pack-relative" in s.change]
    assert saving[0].file_bytes > 10_000
    assert saving[0].pages == 0


def test_own_references_disappear_with_symbolic_functions(tmp_path: Path) -> None:
    if subprocess.run(["gcc", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("no C compiler")
    workshop = Workshop(tmp_path)
    functions = "".join(f"int f{n}(int x){{return x;}}" for n in range(1500))
    calls = "+".join(f"f{n}(x)" for n in range(1500))
    source = f"{functions} int all(int x){{return {calls};}}"
    flags = ("-fno-inline", "-fno-ipa-cp", "-O0")
    before = cost_of(DynamicObject.open(workshop.library("libbefore.so", source, *flags)))
    after = cost_of(
        DynamicObject.open(
            workshop.library("libafter.so", source, *flags, "-Wl,-Bsymbolic-functions")
        )
    )
    saving = [s for s in before.savings if s.change == "-Wl,-Bsymbolic-functions"]
    assert saving[0].pages == before.copied - after.copied > 0


def test_hostile_sizes_are_errors() -> None:
    path = "/lib/x86_64-linux-gnu/libkeyutils.so.1"
    if not os.path.exists(path):
        pytest.skip("no small library")
    for field, size in ((40, 1 << 48), (32, 1 << 45)):  # p_memsz, p_filesz of the first segment
        data = bytearray(Path(path).read_bytes())
        struct.pack_into("<Q", data, 64 + field, size)
        with pytest.raises(ElfError, match="hostile: "):
            cost_of(DynamicObject.from_bytes(bytes(data), "hostile"))


def test_a_library_may_have_no_symbol_at_all(tmp_path: Path) -> None:
    if subprocess.run(["gcc", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("no C compiler")
    source = 'static int t, *p[] = {&t}; __attribute__((visibility("hidden"))) int **f(){return p;}'
    library = Workshop(tmp_path).library("liba.so", source, "-nostdlib")
    assert cost_of(DynamicObject.open(library)).relocations == {Kind.RELATIVE: 1}


def test_the_symbol_of_a_relative_relocation_is_not_looked_at() -> None:
    path = "/lib/x86_64-linux-gnu/libkeyutils.so.1"
    if not os.path.exists(path):
        pytest.skip("no small library")
    library = DynamicObject.open(path)
    data = bytearray(Path(path).read_bytes())
    start, _ = library.elf.file_offset("DT_RELA", library.dynamic.value(Tag.RELA))
    struct.pack_into("<Q", data, start + 8, 0xFFFFFFF0_00000008)
    assert (
        cost_of(DynamicObject.from_bytes(bytes(data), "hostile")).copied == cost_of(library).copied
    )


@pytest.mark.parametrize("machine", [ElfMachine.AARCH64, ElfMachine.RISCV])
def test_other_architectures_are_counted_by_their_own_types(machine: int) -> None:
    """An x86-64 library, with its relocation types renumbered to another architecture's."""
    path = "/lib/x86_64-linux-gnu/libkeyutils.so.1"
    if not os.path.exists(path):
        pytest.skip("no small library")
    original = DynamicObject.open(path)
    numbers = {kind: number for number, (_, kind) in MACHINES[machine].types.items()}
    numbers.setdefault(Kind.GLOB_DAT, numbers[Kind.ABSOLUTE])  # riscv has no GLOB_DAT
    data = bytearray(Path(path).read_bytes())
    struct.pack_into("<H", data, 18, machine)
    for table, tag in (
        (original.relocations.rela, Tag.RELA),
        (original.relocations.plt, Tag.JMPREL),
    ):
        start, _ = original.elf.file_offset("table", original.dynamic.value(tag))
        for index, info in enumerate(table["r_info"].tolist()):
            kind = MACHINES[ElfMachine.X86_64].types[info & 0xFFFFFFFF][1]
            struct.pack_into("<I", data, start + 24 * index + 8, numbers[kind])
    here, there = cost_of(original), cost_of(DynamicObject.from_bytes(bytes(data), "other"))
    assert here.copied == there.copied
    assert here.relocations[Kind.RELATIVE] == there.relocations[Kind.RELATIVE]
    assert sum(here.relocations.values()) == sum(there.relocations.values())
    assert Kind.UNKNOWN not in there.relocations
