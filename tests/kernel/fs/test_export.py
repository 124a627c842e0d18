"""What an export of the guests' changes writes, and that it is safe."""

import os
import stat

import pytest

from samepage.kernel.fs import attributes


def change(vfs, ctx):
    """A bit of everything."""
    vfs.lookup(ctx, b"/hard")
    vfs.open(ctx, b"/file", os.O_WRONLY | os.O_APPEND).write(b"more")
    vfs.unlink(ctx, b"/dir/inner")
    vfs.unlink(ctx, b"/soft")
    vfs.mkdir(ctx, b"/dir/sub", 0o750)
    vfs.open(ctx, b"/dir/sub/new", os.O_CREAT | os.O_WRONLY, 0o640).write(b"new" * 1000)
    vfs.link(ctx, vfs.lookup(ctx, b"/dir/sub/new"), b"/dir/other")
    vfs.symlink(ctx, b"/etc/passwd", b"/dir/out")
    vfs.mknod(ctx, b"/fifo", stat.S_IFIFO | 0o600)
    vfs.mknod(ctx, b"/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    attributes.chmod(ctx, vfs.lookup(ctx, b"/big").inode, 0o4711)


def test_changes_are_written_as_an_image_layer(tree, tmp_path_factory, vfs, ctx):
    change(vfs, ctx)
    target = tmp_path_factory.mktemp("out") / "layer"
    vfs.export(str(target))
    found = {str(path.relative_to(target)): path for path in target.rglob("*")}
    assert sorted(found) == [
        ".wh.soft", "big", "dir", "dir/.wh.inner", "dir/other", "dir/out", "dir/sub",
        "dir/sub/new", "fifo", "file", "hard",
    ]  # fmt: skip
    assert (target / "file").read_bytes() == b"content of the host\nmore"
    assert (target / "file").samefile(target / "hard")
    assert (target / "dir/sub/new").samefile(target / "dir/other")
    assert os.readlink(target / "dir/out") == "/etc/passwd"
    assert stat.S_IMODE((target / "dir/sub").stat().st_mode) == 0o750
    # No program that runs with another's rights is left behind.
    assert stat.S_IMODE((target / "big").stat().st_mode) == 0o711
    assert (target / "big").read_bytes() == (tree / "big").read_bytes()


def test_a_directory_made_anew_is_marked_opaque(tmp_path_factory, vfs, ctx):
    vfs.unlink(ctx, b"/dir/inner")
    vfs.rmdir(ctx, b"/dir")
    vfs.mkdir(ctx, b"/dir", 0o755)
    target = tmp_path_factory.mktemp("out") / "layer"
    vfs.export(str(target))
    assert os.listdir(target / "dir") == [".wh..wh..opq"]


def test_nothing_changed_is_an_empty_layer(tmp_path_factory, vfs, ctx):
    vfs.open(ctx, b"/dir/inner", os.O_RDONLY).read(10)
    target = tmp_path_factory.mktemp("out") / "layer"
    assert os.listdir(target.parent) == []
    vfs.export(str(target))
    assert os.listdir(target) == []
    with pytest.raises(FileExistsError):
        vfs.export(str(target))
    assert os.listdir(target.parent) == ["layer"]
