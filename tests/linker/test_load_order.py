"""Search, load order, duplicates, filters, preloads and constructor order, with ld.so."""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from samepage.elf.object import DynamicObject
from samepage.errors import SamepageError
from samepage.linker.errors import LinkError
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.search import LinkerConfig, Search
from samepage.records import replace
from tests.linker.workshop import Workshop

Agree = Callable[..., object]


def load(path: str, **options: object) -> list[str]:
    """The base names of our search list."""
    config = replace(LinkerConfig(), **options)  # type: ignore[arg-type]
    result = Linker(ImageMemory(), config).load(path)
    return [link.name.rpartition("/")[2] for link in result.search_list]


def test_breadth_first_order(workshop: Workshop, agree: Agree) -> None:
    for name, needs in (("s", ""), ("r", "s"), ("q", "s"), ("p", "rq")):
        workshop.library(
            f"lib{name}.so",
            f"int {name};",
            "-L.",
            "-Wl,--no-as-needed",
            "-Wl,-rpath,$ORIGIN",
            *(f"-l{need}" for need in needs),
        )
    path = workshop.program(
        "int main(){return 0;}", "-lp", "-lq", f"-Wl,-rpath-link,{workshop.directory}"
    )
    agree(path)
    assert load(path)[1:5] == ["libp.so", "libq.so", "libc.so.6", "libr.so"]


@pytest.mark.parametrize("tag", ["filter", "auxiliary"])
def test_a_library_that_filters_itself_stays_where_it_is(
    workshop: Workshop, agree: Agree, tag: str
) -> None:
    workshop.library("libself.so", "int self;", f"-Wl,--{tag}=libself.so")
    path = workshop.program("extern int self; int main(){return self;}", "-lself")
    agree(path)
    assert load(path)[1:3] == ["libself.so", "libc.so.6"]


@pytest.mark.parametrize("seed", range(4))
def test_constructor_order_of_random_graphs(workshop: Workshop, agree: Agree, seed: int) -> None:
    """Also with cycles, which ld.so breaks in its own way, and by the older algorithm."""
    rng = random.Random(seed)
    count = 7
    for index in range(count):
        workshop.library(f"libn{index}.so", f"int n{index};", "-nostdlib")
    for index in range(count):
        needs = [need for need in range(count) if need != index and rng.random() < 0.3]
        rng.shuffle(needs)
        workshop.library(
            f"libn{index}.so",
            f"int n{index}; __attribute__((constructor)) void c(void){{}}",
            "-L.",
            "-nostdlib",
            "-Wl,--no-as-needed",
            "-Wl,-rpath,$ORIGIN",
            "-Wl,--allow-shlib-undefined",
            *(f"-ln{need}" for need in needs),
        )
    chosen = rng.sample(range(count), 3)
    path = workshop.program(
        "int main(){return 0;}",
        *(f"-ln{index}" for index in chosen),
        f"-Wl,-rpath-link,{workshop.directory}",
    )
    agree(path)
    agree(path, GLIBC_TUNABLES="glibc.rtld.dynamic_sort=1")


def test_tunables_mask_subdirectories(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", "int a;")
    path = workshop.program("int main(){return 0;}", "-la")
    for level in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        (workshop.directory / f"lib/glibc-hwcaps/{level}").mkdir(parents=True)
        shutil.copy(
            workshop.directory / "liba.so", workshop.directory / f"lib/glibc-hwcaps/{level}"
        )
    library_path = str(workshop.directory / "lib")
    for masked in ("", "-AVX512F", "-AVX2", "-SSE4_2", "-AVX2,-BMI1", "-NOTHING,AVX2"):
        tunables = f"glibc.malloc.check=1:glibc.cpu.hwcaps={masked}"
        agree(path, LD_LIBRARY_PATH=library_path, GLIBC_TUNABLES=tunables)
    config = LinkerConfig.from_environment({"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-SSE4_2"})
    assert config.capabilities.levels == ()
    secure = LinkerConfig.from_environment(
        {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-SSE4_2"}, secure=True
    )
    assert secure.capabilities == LinkerConfig().capabilities
    surplus = {"GLIBC_TUNABLES": "glibc.rtld.nns=2:glibc.rtld.optional_static_tls=0"}
    assert LinkerConfig.from_environment(surplus).static_tls_surplus == 144 * 4


def test_init_first(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", "int a;")
    workshop.library(
        "libb.so",
        "int b;",
        "-L.",
        "-Wl,--no-as-needed",
        "-la",
        "-Wl,-z,initfirst",
        "-Wl,-rpath,$ORIGIN",
    )
    agree(workshop.program("int main(){return 0;}", "-lb"))


@pytest.mark.parametrize("tag", ["-f", "-F"])
def test_filters_come_before_their_library(workshop: Workshop, agree: Agree, tag: str) -> None:
    workshop.library("libreal.so", "int f(void){return 1;}")
    workshop.library(
        "liba.so", "int f(void){return 2;}", f"-Wl,{tag},libreal.so", "-Wl,-rpath,$ORIGIN"
    )
    path = workshop.program("int f(void); int main(){return f();}", "-la")
    agree(path)
    assert load(path)[1:3] == ["libreal.so", "liba.so"]


def test_one_file_under_two_names_is_one_object(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", "int a;")
    workshop.build("libb.so", "int b;", "-shared", "-fPIC")
    os.remove(workshop.directory / "libb.so")
    path = workshop.program("int main(){return 0;}", "-la")
    os.symlink("liba.so", workshop.directory / "libother.so")
    agree(path, LD_PRELOAD=str(workshop.directory / "libother.so"))
    names = load(path, preload=str(workshop.directory / "libother.so"))
    assert names.count("libother.so") + names.count("liba.so") == 1


def test_preloaded_libraries_come_after_the_program(workshop: Workshop, agree: Agree) -> None:
    library = workshop.library("libp.so", "int f(void){return 3;}")
    workshop.library("liba.so", "int f(void){return 1;}")
    path = workshop.program("int f(void); int main(){return f();}", "-la")
    agree(path, LD_PRELOAD=library)
    agree(path, LD_PRELOAD=f"{library} /does/not/exist.so")
    assert load(path, preload=library)[1] == "libp.so"


def test_rpath_of_the_loader_chain_and_runpath(workshop: Workshop, agree: Agree) -> None:
    for directory in ("one", "two"):
        workshop.library(f"{directory}/libdeep.so", "int deep;")
    workshop.library(
        "libmid.so", "int mid;", f"-L{workshop.directory}/one", "-Wl,--no-as-needed", "-ldeep"
    )
    old = workshop.build(
        "old",
        "int main(){return 0;}",
        "-Wl,--no-as-needed",
        "-L.",
        "-lmid",
        "-Wl,--disable-new-dtags",
        "-Wl,-rpath,$ORIGIN:${ORIGIN}/two",
        "-Wl,-rpath-link,one",
    )
    agree(old)
    assert "libdeep.so" in load(old)
    new = workshop.build(
        "new",
        "int main(){return 0;}",
        "-Wl,--no-as-needed",
        "-L.",
        "-lmid",
        "-Wl,--enable-new-dtags",
        "-Wl,-rpath,$ORIGIN:$ORIGIN/two",
        "-Wl,-rpath-link,one",
    )
    with pytest.raises(LinkError, match=r"libdeep\.so: cannot open shared object file"):
        load(new)


def test_library_path_before_runpath_and_subdirectories_first(
    workshop: Workshop, agree: Agree
) -> None:
    workshop.library("liba.so", "int a;")
    path = workshop.program("int main(){return 0;}", "-la")
    for place in ("lib", "lib/tls/x86_64", "lib/glibc-hwcaps/x86-64-v2"):
        (workshop.directory / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(workshop.directory / "liba.so", workshop.directory / place)
        agree(path, LD_LIBRARY_PATH=str(workshop.directory / "lib"))
    config = LinkerConfig(library_path=str(workshop.directory / "lib"))
    result = Linker(ImageMemory(), config).load(path)
    level = "glibc-hwcaps/x86-64-v2" in result.search_list[1].name
    assert level == ("x86-64-v2" in config.capabilities.levels)


def test_relative_and_empty_elements_of_the_library_path(
    workshop: Workshop, agree: Agree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not show in the library's path, but $ORIGIN is an absolute directory."""
    workshop.library("here/sub/libleaf.so", "int leaf;")
    workshop.library(
        "here/libmid.so",
        "int mid;",
        "-Wl,--no-as-needed",
        "-Lhere/sub",
        "-lleaf",
        "-Wl,-rpath,$ORIGIN/sub",
    )
    path = workshop.build(
        "program", "int main(){return 0;}", "-Wl,--no-as-needed", "-Lhere", "-lmid"
    )
    for where, value in ((".", "here"), ("here", ":/nowhere"), ("here", ".")):
        monkeypatch.chdir(workshop.directory / where)
        agree(path, LD_LIBRARY_PATH=value)
        assert "libleaf.so" in load(path, library_path=value, cwd=os.getcwd())


def test_the_origin_of_the_library_path_is_the_program(workshop: Workshop, agree: Agree) -> None:
    """Even if it is a library elsewhere that is the first to use it."""
    workshop.library("libs/libleaf.so", "int leaf;")
    mid = workshop.build(
        "far/libmid.so",
        "int mid;",
        "-shared",
        "-fPIC",
        "-Wl,--no-as-needed",
        "-Llibs",
        "-lleaf",
    )
    flags = ("-nostdlib", "-Wl,-e,main", "-Wl,--allow-shlib-undefined")
    path = workshop.build("program", "int main(){return 0;}", "-Wl,--no-as-needed", mid, *flags)
    assert "libleaf.so" in load(path, library_path="$ORIGIN/libs")
    agree(path, LD_LIBRARY_PATH="$ORIGIN/libs")


_HEADER = {  # what is written at an offset of a library's ELF header
    "machine": (18, b"\xb7"),
    "version": (20, b"\2"),
    "ident-version": (6, b"\2"),
    "osabi": (7, b"\t"),
    "abi-version": (7, b"\3\4"),
    "newest-abi": (7, b"\3\3"),
    "padding": (12, b"\1"),
    "type": (16, b"\1"),
    "class": (4, b"\1"),
}


@pytest.mark.parametrize(
    "what", [*_HEADER, "directory", "empty", "link-loop", "executable", "pie", "static", "object"]
)
def test_a_file_that_is_no_library_ends_the_search_as_in_ldso(
    workshop: Workshop, what: str
) -> None:
    """Some are passed over, with most ld.so ends though there is a library further on."""
    good = workshop.library("good/liba.so", "int f(void){return 7;}")
    path = workshop.build("program", "int f(void); int main(){return f();}", "-Lgood", "-la")
    bad = workshop.directory / "liba.so"
    if what in _HEADER:
        offset, value = _HEADER[what]
        data = bytearray(Path(good).read_bytes())
        data[offset : offset + len(value)] = value
        bad.write_bytes(data)
    elif what == "directory":
        bad.mkdir()
    elif what == "empty":
        bad.touch()
    elif what == "link-loop":
        bad.symlink_to("liba.so")
    else:
        flag = {"executable": "-no-pie", "pie": "-pie", "static": "-static", "object": "-c"}[what]
        workshop.build("liba.so", "int main(){return 0;}", flag)
    for directories in (f"{workshop.directory}:{workshop.directory}/good", str(workshop.directory)):
        environment = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": directories}
        real = subprocess.run([path], env=environment, capture_output=True, text=True, check=False)
        theirs = real.stderr.strip().rpartition("libraries: ")[2]
        try:
            ours = load(path, library_path=directories)
        except SamepageError as error:
            # While it starts, ld.so has no text for most error numbers.
            mine = error.message.replace("Is a directory", f"Error {errno.EISDIR}")
            assert mine.removesuffix(f", needed by {path}") == theirs
        else:
            assert real.returncode == 7
            assert "liba.so" in ours


def test_the_program_is_no_library_of_its_own(workshop: Workshop) -> None:
    path = workshop.build("program", "int main(){return 0;}")
    linker = Linker(ImageMemory(), replace(LinkerConfig(), preload=path))
    result = linker.load(path)
    assert path not in [link.name for link in result.search_list[1:]]
    assert "cannot dynamically load position-independent executable" in result.warnings[0]


def test_nodeflib_ignores_default_directories(workshop: Workshop) -> None:
    path = workshop.build("program", "int main(){return 0;}", "-Wl,-z,nodefaultlib")
    with pytest.raises(LinkError, match=r"libc\.so\.6: cannot open"):
        load(path)


def test_secure_mode_ignores_the_environment(workshop: Workshop) -> None:
    workshop.library("lib/liba.so", "int a;")
    path = workshop.build("program", "int main(){return 0;}", "-Wl,--no-as-needed", "-Llib", "-la")
    directory = str(workshop.directory / "lib")
    assert "liba.so" in load(path, library_path=directory)
    with pytest.raises(LinkError):
        load(path, library_path=directory, secure=True)
    with pytest.raises(LinkError):
        load(
            workshop.program("int main(){return 0;}", "-Llib", "-la", "-Wl,-rpath,$ORIGIN/lib"),
            secure=True,
        )


def test_secure_mode_trusts_the_system_and_libraries(workshop: Workshop) -> None:
    """Only the program can be where its user has put it, and only he sets LD_PRELOAD."""
    library = workshop.library("libp.so", "int p;")
    (workshop.directory / "preload").write_text(library)
    settings = {"secure": True, "preload_file": str(workshop.directory / "preload")}
    assert load("/bin/true", **settings)[1] == "libp.so"
    assert "libp.so" not in load("/bin/true", secure=True, preload=library)
    search = Search(ImageMemory(), replace(LinkerConfig(), secure=True))
    link = LinkMap(library, DynamicObject.open(library), MapKind.LIBRARY, None)
    directory = str(workshop.directory)
    assert search.expand("$ORIGIN/x", link) == f"{directory}/x"
    assert search.expand("${ORIGIN}", link) == directory
    for not_first in ("$ORIGINx", "${ORIGIN}x", "/a/$ORIGIN", "$LIB/$ORIGIN"):
        assert search.expand(not_first, link) in ("", not_first)
    link.kind = MapKind.EXECUTABLE
    assert search.expand("$ORIGIN/x", link) == ""


def test_the_cache_is_read_as_ldconfig_wrote_it(tmp_path: Path) -> None:
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    if not os.path.exists(ldconfig):
        pytest.skip("no ldconfig")
    import subprocess

    from samepage.linker.cache import LibraryCache

    with open("/etc/ld.so.cache", "rb") as file:
        entries = LibraryCache(file.read()).entries()
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    lines = [line for line in listing.splitlines() if "=>" in line]
    assert [(entry.name, entry.path) for entry in entries] == [
        (line.split()[0], line.rpartition("=> ")[2]) for line in lines
    ]


def test_the_cache_prefers_supported_subdirectories(workshop: Workshop) -> None:
    import subprocess

    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    if not os.path.exists(ldconfig):
        pytest.skip("no ldconfig")
    for place in ("lib", "lib/glibc-hwcaps/x86-64-v2", "lib/glibc-hwcaps/x86-64-v4"):
        workshop.library(f"{place}/libspecial.so.1", "int a;")
    cache = workshop.directory / "cache"
    conf = workshop.directory / "conf"
    conf.write_text(f"{workshop.directory}/lib\n")
    subprocess.run(
        [ldconfig, "-C", str(cache), "-f", str(conf), "-X"], check=True, capture_output=True
    )
    from samepage.linker.cache import LibraryCache

    parsed = LibraryCache(cache.read_bytes())
    for levels, expected in (
        ((), "lib/libspecial.so.1"),
        (("x86-64-v3", "x86-64-v2"), "lib/glibc-hwcaps/x86-64-v2/libspecial.so.1"),
        (("x86-64-v4", "x86-64-v3", "x86-64-v2"), "lib/glibc-hwcaps/x86-64-v4/libspecial.so.1"),
    ):
        assert parsed.lookup("libspecial.so.1", levels) == str(workshop.directory / expected)


def test_programs_that_ldso_does_not_start_are_refused(workshop: Workshop) -> None:
    static = workshop.build("static", "int main(){return 0;}", "-static-pie")
    with pytest.raises(LinkError, match="statically linked"):
        load(static)
