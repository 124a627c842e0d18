"""Will the programs of a container image start? What their loader will not find.

Each program is linked by the rules of the loader that it names, with the image's own files:
its ld.so.cache, its directories, its symbols. No code runs. Libraries are parsed once for all.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from samepage.abi.elf import ElfMachine, ElfType
from samepage.elf.dynamic import Tag
from samepage.elf.header import ElfError
from samepage.elf.object import DynamicObject
from samepage.images.image import Image
from samepage.images.layer import Content
from samepage.images.tree import Node, Tree
from samepage.linker.errors import LinkError
from samepage.linker.link import Linker, LinkResult
from samepage.linker.search import LinkerConfig
from samepage.linker.tree_memory import TreeMemory

MACHINES = {
    "386": ElfMachine.I386,
    "amd64": ElfMachine.X86_64,
    "arm64": ElfMachine.AARCH64,
    "riscv64": ElfMachine.RISCV,
}
"""`e_machine` by the name that an image's configuration has for it."""


class Kind(StrEnum):
    """What is wrong with a program."""

    MISSING_LIBRARY = "missing-library"
    MISSING_VERSION = "missing-version"
    MISSING_SYMBOL = "missing-symbol"
    MISSING_LATER = "missing-symbol-at-first-call"
    MISSING_INTERPRETER = "missing-interpreter"
    WRONG_ARCHITECTURE = "wrong-architecture"
    RUN_PATH = "run-path-leaves-image"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong: `user` is the object that needs `what`, `detail` the reason."""

    kind: Kind
    user: str
    what: str
    detail: str = ""


@dataclass(slots=True)
class Links:
    """What came of an image's ELF files."""

    programs: list[str]
    """Dynamically linked programs, those that were linked."""
    static: list[str]
    libraries: int
    findings: dict[Finding, list[str]]
    """With the programs that each concerns."""
    not_checked: dict[int, list[str]]
    """Programs of architectures whose rules are not known here, by `e_machine`."""


def check_links(image: Image) -> Links:
    """Link every program of an image whose ELF files were kept. Raises `ImageError`."""
    tree = image.tree
    links = Links([], [], 0, {}, {})
    objects: dict[Content, DynamicObject] = {}
    memory = TreeMemory(tree, objects)
    expected = MACHINES.get(image.config.architecture)
    for node, content in tree.elf_files():
        try:
            file = memory.open(node.path)
            memory.close(file)
            found, elf = file.object, file.object.elf
            program = _is_program(found, node)
        except (ElfError, OSError):
            if node.entry.mode & 0o111 and not _is_relocatable(content):
                _note(links, Finding(Kind.DAMAGED, node.path, "not an ELF file that can run"), node)
            continue
        if elf.type not in (ElfType.DYN, ElfType.EXEC):
            continue
        if expected is not None and elf.machine != expected:
            what = f"for machine {elf.machine}, in an image for {image.config.architecture}"
            _note(links, Finding(Kind.WRONG_ARCHITECTURE, node.path, what), node)
        for finding in _run_paths(found, node, tree):
            _note(links, finding, node)
        if not program:
            links.libraries += 1
        elif found.interpreter is None:
            links.static.append(node.path)
        elif elf.machine != ElfMachine.X86_64 or elf.layout.bits != 64:
            links.not_checked.setdefault(elf.machine, []).append(node.path)
        else:
            links.programs.append(node.path)
            for finding in _link(node, found, image, objects):
                _note(links, finding, node)
    return links


def _note(links: Links, finding: Finding, node: Node) -> None:
    links.findings.setdefault(finding, []).append(node.path)


def _is_program(found: DynamicObject, node: Node) -> bool:
    """Libraries may have an interpreter, too (libc prints its version), and x bits."""
    if found.elf.type == ElfType.EXEC:
        return True
    if found.interpreter is None:
        return found.is_executable
    return found.soname is None and bool(node.entry.mode & 0o111)


def _is_relocatable(content: Content) -> bool:
    """An object file or kernel module, which execve does not start."""
    assert content.path is not None
    with open(content.path, "rb", buffering=0) as file:
        start = file.read(18)
    return len(start) == 18 and start[16:18] in (b"\1\0", b"\0\1", b"\4\0", b"\0\4")


def _run_paths(found: DynamicObject, node: Node, tree: Tree) -> Iterator[Finding]:
    """Directories of DT_RPATH or DT_RUNPATH that are not in the image, or depend on the caller."""
    for tag in (Tag.RUNPATH, Tag.RPATH):
        text = found.string(tag)
        if not text:
            continue
        for part in text.split(":"):
            if "$" in part:
                origin = node.path.rpartition("/")[0]
                part = part.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
                depth = 0
                for name in part.split("/"):
                    depth += -1 if name == ".." else name not in ("", ".")
                    if depth < 0:
                        yield Finding(
                            Kind.RUN_PATH, node.path, part, f"DT_{tag.name} leads out of the root"
                        )
                        break
                continue
            if not part.startswith("/"):
                detail = f"DT_{tag.name} is relative: its meaning is up to the working directory"
                yield Finding(Kind.RUN_PATH, node.path, part or "(empty)", detail)
            elif tree.lookup(part) is None:
                detail = f"DT_{tag.name} names a directory that the image does not have"
                yield Finding(Kind.RUN_PATH, node.path, part, detail)
        return  # DT_RUNPATH hides DT_RPATH


def _link(
    node: Node, program: DynamicObject, image: Image, objects: dict[Content, DynamicObject]
) -> Iterator[Finding]:
    path, tree, interpreter = node.path, image.tree, program.interpreter
    if interpreter is None or tree.lookup(interpreter) is None:
        yield Finding(Kind.MISSING_INTERPRETER, path, interpreter or "", "execve fails: ENOENT")
        return
    memory = TreeMemory(tree, objects, image.config.process.directory)
    linker = Linker(memory, config_of(image, node), keep_going=True)
    try:
        result = linker.load(path, origin=path)
        linker.bind(result)
    except (LinkError, ElfError) as error:
        yield Finding(Kind.DAMAGED, path, error.message)
        return
    yield from _findings(result)


def config_of(image: Image, node: Node) -> LinkerConfig:
    """The loader's settings for a program of an image that a container of it starts."""
    secure = bool(node.entry.mode & (stat.S_ISUID | stat.S_ISGID))
    return LinkerConfig.from_environment(image.config.process.variables, secure=secure)


def _findings(result: LinkResult) -> Iterator[Finding]:
    for link, name in result.missing:
        yield Finding(Kind.MISSING_LIBRARY, link.name, name)
    for message in dict.fromkeys(result.errors[len(result.missing) :]):
        user, _, rest = message.partition(": ")
        symbol = rest.removeprefix("symbol lookup error: undefined symbol: ")
        if symbol != rest:
            yield Finding(Kind.MISSING_SYMBOL, user, symbol)
        else:
            yield Finding(Kind.MISSING_VERSION, user, rest)
    for link, name in result.undefined_later:
        yield Finding(Kind.MISSING_LATER, link.name, name)


def fails(links: Links, kinds: Sequence[str]) -> bool:
    """Whether there is a finding of one of the kinds (`missing-symbol` means later ones, too)."""
    wanted = set(kinds)
    if Kind.MISSING_SYMBOL in wanted:
        wanted.add(Kind.MISSING_LATER)
    return any(finding.kind in wanted for finding in links.findings)
