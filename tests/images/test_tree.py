"""Stacked layers have the files that the kernel's overlayfs shows."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samepage.images.directory_layer import read_directory_layer
from samepage.images.layer import Entry, Layer
from samepage.images.tree import Tree
from tests.images.archives import directory, link, member, read, tar

MOUNT = """
import json, os, subprocess, sys
lower, target = sys.argv[1:]
subprocess.run(["mount", "-t", "overlay", "overlay", "-o", "ro,lowerdir=" + lower, target],
               check=True)
found = {}
for place, directories, files in os.walk(target):
    for name in directories + files:
        path = os.path.join(place, name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue  # a directory of one layer alone lists its whiteouts, too
        text = os.readlink(path) if os.path.islink(path) else ""
        if not text and os.path.isfile(path):
            text = open(path).read()
        found[path[len(target):]] = [status.st_mode, text]
print(json.dumps(found))
"""


def make_layer(place: Path, choose: random.Random) -> None:
    """Files, links, directories, whiteouts and opaque directories at a few names."""
    place.mkdir()

    def fill(directory: Path, depth: int) -> None:
        for name in "abcd":
            path = directory / name
            kind = choose.choice(["none", "file", "link", "dir", "dir", "dir", "gone", "opaque"])
            if kind == "file":
                path.write_text(str(choose.random()))
                path.chmod(choose.choice([0o644, 0o755]))
            elif kind == "link":
                path.symlink_to(choose.choice(["a", "/b", "../c"]))
            elif kind == "gone":
                os.mknod(path, 0o020000, 0)
            elif kind in ("dir", "opaque") and depth < 3:
                path.mkdir(mode=choose.choice([0o755, 0o700]))
                if kind == "opaque":
                    os.setxattr(path, "trusted.overlay.opaque", b"y")
                fill(path, depth + 1)

    fill(place, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="overlay mounts need root")
@pytest.mark.parametrize("seed", range(8))
def test_random_layers_stack_as_overlayfs_stacks_them(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    places = [tmp_path / str(number) for number in range(3)]
    for place in places:
        make_layer(place, choose)
    (tmp_path / "merged").mkdir()
    lower = ":".join(str(place) for place in reversed(places))
    words = ["unshare", "-m", sys.executable, "-c", MOUNT, lower, str(tmp_path / "merged")]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if run.returncode and "mount" in run.stderr:
        pytest.skip(f"no overlay mounts here: {run.stderr.splitlines()[-1]}")
    assert not run.stderr
    expected = json.loads(run.stdout)

    layers = []
    for place in places:
        layers.append(Layer(str(place)))
        read_directory_layer(str(place), layers[-1])
    assert {node.path: shown(node.entry) for node in Tree(layers).walk()} == expected
    shutil.rmtree(tmp_path)


def shown(entry: Entry) -> list[object]:
    text = entry.target
    if entry.content is not None:
        assert entry.content.path is not None
        text = Path(entry.content.path).read_text()
    return [entry.mode, text]


def test_names_resolve_within_the_image() -> None:
    tree = Tree(
        [
            read(
                tar(
                    directory("usr"),
                    directory("usr/lib"),
                    member("usr/lib/x", b"x"),
                    link("lib", "usr/lib"),
                    link("out", "../../../../usr"),
                    link("absolute", "/usr/lib/x"),
                    link("loop", "loop"),
                )
            )
        ]
    )
    for path in ("/lib/x", "/out/lib/x", "/absolute", "/usr/../lib/./x", "/../usr/lib/x"):
        node = tree.lookup(path)
        assert node is not None
        assert node.path == "/usr/lib/x"
    for path in ("/loop", "/lib/x/", "/lib/y", "/lib/x/y"):
        found = tree.lookup(path)
        assert found is None or path == "/lib/x/"
    link_node = tree.lookup("/lib", follow=False)
    assert link_node is not None
    assert link_node.entry.is_symlink


def test_a_file_that_an_upper_layer_replaces_is_known() -> None:
    tree = Tree([read(tar(member("a", b"1"))), read(tar(member("a", b"1", mode=0o700)))])
    (replaced,) = tree.replaced
    assert (replaced.path, replaced.lower_layer, replaced.upper_layer) == ("/a", 0, 1)
    assert replaced.lower.digest == replaced.upper.digest
