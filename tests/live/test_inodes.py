"""Which file a mapping is of, when its name does not show it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_processes import needs_frames

from samepage.analysis.lost_sharing import lost_sharing
from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.snapshot import parquet
from samepage.snapshot.columns import File

Start = Callable[[str], int]
MAP = """
import mmap, os, time
maps = []
for path in {paths!r}:
    with open(path, "rb") as file:
        maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        total = sum(maps[-1][::4096])
{then}
print("ready", flush=True)
time.sleep(1000)
"""

pytestmark = needs_frames


def files_of(pid: int) -> dict[str, File]:
    return {file.path: file for file in capture([pid]).files}


def test_deleted_files_and_names_that_look_like_it(stopped_program: Start, tmp_path: Path) -> None:
    names = ["gone", "kept", "named (deleted)", "new\nline", "back\\012slash", "replaced"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 3000)
    paths = [str(tmp_path / name) for name in names]
    then = f"os.unlink({paths[0]!r}); os.rename({paths[1]!r} + 'x', {paths[5]!r})"
    (tmp_path / "keptx").write_bytes(b"another")
    pid = stopped_program(MAP.format(paths=paths, then=then))
    files = files_of(pid)
    found = {path: files[path].deleted for path in paths}
    assert found == dict(zip(paths, (True, False, False, False, False, True), strict=True))
    assert files[paths[0]].size == 3000 * len("gone")
    assert files[paths[5]].size == 3000 * len("replaced")


def test_a_library_replaced_by_an_upgrade_is_lost_sharing(
    stopped_program: Start, tmp_path: Path
) -> None:
    library = tmp_path / "libc.so.6"
    content = Path("/lib/x86_64-linux-gnu/libc.so.6").read_bytes()
    library.write_bytes(content)
    then = (
        f"os.unlink({str(library)!r}); open({str(library)!r}, 'wb').write(open("
        f"'/lib/x86_64-linux-gnu/libc.so.6', 'rb').read()); file = open({str(library)!r}, 'rb'); "
        "maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)); sum(maps[-1][::4096])"
    )
    pid = stopped_program(MAP.format(paths=[str(library)], then=then))
    lost = lost_sharing(Sharing(capture([pid])))
    pages = (len(content) + 4095) // 4096
    mine = [each for each in lost if str(library) in [twin.use.file.path for twin in each.twins]]
    assert len(mine) == 1
    # The system's own libc is a third inode with that content.
    assert any(twin.use.file.deleted for twin in mine[0].twins)
    assert mine[0].saved_frames >= pages


@pytest.fixture
def overlays(tmp_path: Path) -> Iterator[list[Path]]:
    """Two overlay mounts of one lower layer, as two containers of one image have."""
    # On a file system of its own: an overlay cannot have another overlay as its upper layer.
    base = tmp_path / "base"
    base.mkdir()
    mounted: list[Path] = []

    def mount(*arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=20)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        mounted.append(Path(arguments[-1]))

    try:
        mount("-t", "tmpfs", "tmpfs", str(base))
        (base / "lower").mkdir()
        (base / "lower" / "data").write_bytes(b"layer" * 40000)
        points = []
        for name in ("one", "two"):
            for part in ("upper", "work", "merged"):
                (base / name / part).mkdir(parents=True)
            options = (
                f"lowerdir={base}/lower,upperdir={base}/{name}/upper,workdir={base}/{name}/work"
            )
            mount("-t", "overlay", "overlay", "-o", options, f"{base}/{name}/merged")
            points.append(base / name / "merged")
        yield points
    finally:
        for point in reversed(mounted):
            subprocess.run(["umount", "-l", str(point)], check=False, timeout=20)


def test_one_layer_under_two_overlay_mounts_is_one_file(
    stopped_program: Start, overlays: list[Path]
) -> None:
    paths = [str(point / "data") for point in overlays]
    pid = stopped_program(MAP.format(paths=paths, then=""))
    found = [use for use in Sharing(capture([pid])).files if use.file.path in paths]
    pages = (200000 + 4095) // 4096
    assert [(use.mapped_pages, use.frames) for use in found] == [(2 * pages, pages)]


def test_a_file_that_is_copied_up_under_a_running_process_is_two(
    stopped_program: Start, overlays: list[Path], tmp_path: Path
) -> None:
    path = overlays[0] / "data"
    before = stopped_program(MAP.format(paths=[str(path)], then=""))
    path.chmod(0o640)  # copies it up: who maps it from now on has another inode below
    after = stopped_program(MAP.format(paths=[str(path)], then=""))
    snapshot = capture([before, after])
    pages = (200000 + 4095) // 4096
    found = [use for use in Sharing(snapshot).files if use.file.path == str(path)]
    sums = [(use.mapped_pages, use.frames, use.processes) for use in found]
    assert sums == [(pages, pages, 1)] * 2
    assert len({(use.file.dev, use.file.ino) for use in found}) == 1
    assert {use.file.version for use in found} == {0, 1}
    # What is at the path is known of the copy, which the second process has.
    sizes = {use.file.size: Sharing(snapshot).mappers[use.number][0].pid for use in found}
    assert sizes == {200000: after, None: before}
    snapshot.check()
    parquet.write(snapshot, tmp_path / "snapshot")
    assert parquet.read(tmp_path / "snapshot").files == snapshot.files


def test_one_process_with_both_has_two_files(stopped_program: Start, overlays: list[Path]) -> None:
    path = overlays[0] / "data"
    then = (
        f"os.chmod({str(path)!r}, 0o640)\nfile = open({str(path)!r}, 'rb')\n"
        "maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))\nsum(maps[-1][::4096])"
    )
    pid = stopped_program(MAP.format(paths=[str(path)], then=then))
    pages = (200000 + 4095) // 4096
    found = [use for use in Sharing(capture([pid])).files if use.file.path == str(path)]
    assert [(use.mapped_pages, use.frames) for use in found] == [(pages, pages)] * 2


def test_a_file_is_looked_at_through_the_mapping_when_its_path_leads_elsewhere(
    stopped_program: Start, tmp_path: Path
) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(Path("/bin/true").read_bytes())
    pid = stopped_program(MAP.format(paths=[str(path)], then=""))
    before = files_of(pid)[str(path)]
    other = tmp_path / "other"
    other.write_bytes(b"not ELF")
    other.rename(path)
    after = files_of(pid)[str(path)]
    assert before.build_id is not None
    assert (after.build_id, after.deleted, before.deleted) == (before.build_id, True, False)
