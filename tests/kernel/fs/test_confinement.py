"""No path leads out of the root: compared with openat2(RESOLVE_IN_ROOT) of the live kernel."""

import ctypes
import errno
import os
import pathlib
import shutil
import struct
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.kernel.errors import SysError
from tests.kernel.fs_helpers import boot

SYS_OPENAT2 = 437
RESOLVE_IN_ROOT = 0x10
libc = ctypes.CDLL(None, use_errno=True)

NAMES = st.sampled_from(["a", "b", "c", "..", ".", "x"])
PARTS = st.lists(NAMES, min_size=1, max_size=6).map("/".join)
PATHS = st.builds(
    "{}{}{}".format, st.sampled_from(["", "/", "///"]), PARTS, st.sampled_from(["", "/"])
)
OUTSIDE = st.sampled_from(["/etc/passwd", "../../../../etc/passwd", "/secret", "../secret", "/"])
TREES = st.lists(
    st.tuples(PARTS, st.one_of(st.just(None), st.just("file"), st.builds(lambda t: "@" + t, PATHS),
                               st.builds(lambda t: "@" + t, OUTSIDE))),
    max_size=12,
)  # fmt: skip


def open_in_root(root_fd, path):
    """The (device, inode) of `path` inside the root, or the errno's name."""
    how = struct.pack("<QQQ", os.O_PATH, 0, RESOLVE_IN_ROOT)
    fd = libc.syscall(SYS_OPENAT2, root_fd, os.fsencode(path), how, len(how))
    if fd < 0:
        return errno.errorcode[ctypes.get_errno()]
    info = os.fstat(fd)
    os.close(fd)
    return info.st_dev, info.st_ino


def build(root, entries):
    """Make what can be made of the entries; a name outside or twice is skipped."""
    for name, kind in entries:
        path = pathlib.Path(os.path.normpath(root / name))
        if not path.is_relative_to(root) or path.is_symlink() or path.exists():
            continue
        parent = path.parent
        if any(p.is_symlink() or p.is_file() for p in (parent, *parent.parents)):
            continue
        parent.mkdir(parents=True, exist_ok=True)
        if kind is None:
            path.mkdir()
        elif kind == "file":
            path.write_bytes(b"")
        else:
            path.symlink_to(kind[1:])


@pytest.fixture(scope="module")
def supported():
    fd = os.open("/", os.O_PATH)
    answer = open_in_root(fd, "/")
    os.close(fd)
    if answer in ("ENOSYS", "EPERM"):
        pytest.skip("the kernel has no openat2")


@pytest.mark.usefixtures("supported")
@settings(max_examples=60, deadline=None)
@given(TREES, st.lists(PATHS, min_size=1, max_size=12))
def test_path_walks_end_where_the_live_kernels_do(entries, paths):
    place = pathlib.Path(tempfile.mkdtemp(prefix="samepage-root-"))
    try:
        root = place / "root"
        root.mkdir()
        (place / "secret").write_bytes(b"outside")
        for mount in ("proc", "sys", "dev"):
            (root / mount).mkdir()
        build(root, entries)
        vfs = boot(root)
        ctx = vfs.context()
        root_fd = os.open(root, os.O_PATH)
        try:
            for path in paths:
                try:
                    info = vfs.stat(ctx, os.fsencode(path))
                    ours = (info.dev, info.ino)
                except SysError as error:
                    ours = errno.errorcode[error.errno]
                assert ours == open_in_root(root_fd, path), path
        finally:
            os.close(root_fd)
    finally:
        shutil.rmtree(place)


def test_magic_links_of_the_host_are_not_followed(tree):
    (tree / "to_root").symlink_to("/proc/self/root")
    (tree / "to_fd").symlink_to("/proc/self/fd/0")
    vfs = boot(tree)
    for path in (b"/to_root/etc/passwd", b"/to_fd", b"/proc/1/root/etc/passwd"):
        with pytest.raises(SysError):
            vfs.lookup(vfs.context(), path)
