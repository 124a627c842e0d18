"""`samepage link`: what ld.so would do with a program or library, without running it."""

import json
import os
import shutil
import sys
from collections.abc import Iterable

from samepage.cli.arguments import Parser, add_output, number, variables
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.records import replace
from samepage.report.forms import JSON, TEXT_OR_JSON, Form, choose, writing


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="Programs or shared libraries; a mere name that is no file here is looked up in "
        "PATH. Of a directory, all that is below it. Several are shown as --tree.",
    )
    add("--tree", action="store_true", help="Show what each FILE needs, as a tree.")
    add(
        "--missing",
        action="store_true",
        help="Show only what will not be found: libraries, versions, and symbols, also those of "
        "lazy binding. Exit status 1 if there is anything.",
    )
    add(
        "--unused",
        action="store_true",
        help="Show only the libraries that FILE needs for nothing, as ldd -u does. Exit status 1 "
        "if there are any.",
    )
    add("--trail", action="store_true", help="Show every file that the search tried.")
    add("--bindings", action="store_true", help="Show each symbol's definition, and why that one.")
    add("--pages", action="store_true", help="Show the pages that relocation writes to.")
    add("--now", action="store_true", help="Bind everything at load time, as LD_BIND_NOW=1 does.")
    add_output(parser, TEXT_OR_JSON)
    add(
        "--check",
        action="store_true",
        help="Compare with the real ld.so, which runs up to the program's entry point (and runs "
        "the libraries' constructors). Exit status 1 if anything differs, or the program does "
        "not start.",
    )
    add(
        "--timeout",
        type=number(float, 0.1),
        default=60.0,
        metavar="SECONDS",
        help="For --check: how long the program may take to its entry point, since a "
        "constructor may wait for ever (default: %(default)s).",
    )
    add(
        "--env",
        action="append",
        default=[],
        dest="extra",
        metavar="NAME=VALUE",
        help="A variable of FILE's environment, not of samepage's own: LD_PRELOAD, "
        "LD_LIBRARY_PATH, GLIBC_TUNABLES.",
    )


def command(
    files: list[str],
    tree: bool,
    missing: bool,
    unused: bool,
    trail: bool,
    bindings: bool,
    pages: bool,
    now: bool,
    output: str | None,
    form: str | None,
    check: bool,
    timeout: float,
    extra: list[str],
) -> int:
    """Show what ld.so (or musl's loader) does with FILE: search, load order, bindings, relocations.

    Like ldd and LD_DEBUG, but no code of FILE or its libraries is run. LD_LIBRARY_PATH,
    LD_PRELOAD and LD_BIND_NOW count as they would for the program, from the environment or
    from --env.
    """
    chosen = choose(output, form, TEXT_OR_JSON)
    environment = {**os.environ, **variables(extra)}
    if tree or missing or unused or len(files) > 1 or os.path.isdir(files[0]):
        if check or trail or bindings or pages:
            raise SamepageError("--check, --trail, --bindings and --pages take one FILE")
        view = "missing" if missing else "unused" if unused else "tree"
        return _many(files, environment, view, chosen, output, now=now)
    file = _path(files[0])
    if check:
        return _check(file, environment, timeout, chosen, output)
    use_one_thread()
    from samepage.linker.image import ImageMemory
    from samepage.linker.link import Linker
    from samepage.linker.search import LinkerConfig
    from samepage.linker.secure import is_secure
    from samepage.report.linking import Details, link_document, link_text

    config = LinkerConfig.from_environment(environment, secure=is_secure(file))
    config = replace(config, bind_now=config.bind_now or now)
    linker = Linker(ImageMemory(), config, keep_going=True)
    result = linker.link(file)
    document = link_document(linker, result, with_bindings=bindings or chosen is JSON)
    if chosen is JSON:
        _print([json.dumps(document, indent=1)], chosen, output)
    else:
        _print(link_text(document, Details(trail, bindings, pages)), chosen, output)
    return 1 if result.errors else 0


def _path(file: str) -> str:
    """A mere name that is no file here is looked up in PATH."""
    return file if "/" in file or os.path.exists(file) else shutil.which(file) or file


def _many(
    files: list[str],
    environment: dict[str, str],
    view: str,
    form: Form,
    output: str | None,
    *,
    now: bool,
) -> int:
    """Show one view of each of several files. What they share is read once.

    A file that cannot be linked at all is reported on stderr, and the others are shown.
    """
    use_one_thread()
    from samepage.elf.object import DynamicObject
    from samepage.elf.walk import find_files
    from samepage.linker.link import Linker
    from samepage.linker.outline import OutlineMemory
    from samepage.linker.search import LinkerConfig
    from samepage.linker.secure import is_secure
    from samepage.linker.versions import VersionNumbers
    from samepage.report.link_tree import missing_text, tree_document, tree_text, unused_text

    parsed: dict[tuple[int, int], DynamicObject] = {}
    versions = VersionNumbers()
    documents, status = [], 0
    for file in (found for name in files for found in find_files(_path(name), parsed)):
        config = LinkerConfig.from_environment(environment, secure=is_secure(file))
        config = replace(config, bind_now=config.bind_now or now)
        linker = Linker(OutlineMemory(parsed=parsed), config, keep_going=True, versions=versions)
        try:
            result = linker.load(file)
            linker.bind(result)
        except SamepageError as error:
            print(f"samepage: {error.message}", file=sys.stderr)
            status = 2
            continue
        document = tree_document(result, with_pages=view == "tree")
        bad = {
            "tree": document["errors"],
            "missing": document["errors"] or document["undefined_later"],
            "unused": document["unused"],
        }
        status = status or int(bool(bad[view]))
        documents.append(document)
    with writing(output, form) as stream:
        if form is JSON:
            stream.write(json.dumps(documents, indent=1) + "\n")
            return status
        for document in documents:
            texts = {
                "tree": tree_text(document, color=stream.isatty()),
                "missing": missing_text(document),
                "unused": unused_text(document),
            }
            stream.writelines(line + "\n" for line in texts[view])
    return status


def _check(
    path: str, environment: dict[str, str], timeout: float, form: Form, output: str | None
) -> int:
    from samepage.elf.object import DynamicObject
    from samepage.report.linking import comparison_document, comparison_text
    from samepage.verify.linking import PASSED_ON, compare

    try:
        is_program = DynamicObject.open(path).interpreter is not None
    except OSError as error:
        raise SamepageError(f"{path}: {error.strerror}", 127) from None
    if not is_program:
        raise SamepageError(f"{path}: --check needs a dynamically linked program")
    passed = {"LANG": "C", **{name: environment[name] for name in PASSED_ON if name in environment}}
    comparisons = [
        compare(path, passed, bind_now=bind_now, timeout=timeout) for bind_now in (True, False)
    ]
    if form is JSON:
        documents = [comparison_document(comparison) for comparison in comparisons]
        _print([json.dumps(documents, indent=1)], form, output)
    else:
        lines = [line for comparison in comparisons for line in comparison_text(comparison)]
        _print(lines, form, output)
    good = all(comparison.agrees and not comparison.theirs for comparison in comparisons)
    return 0 if good else 1


def _print(lines: Iterable[str], form: Form, output: str | None) -> None:
    with writing(output, form) as stream:
        stream.writelines(line + "\n" for line in lines)
