"""Opening, reading and changing files; the host's tree stays as it is."""

import errno
import os
import pathlib
import stat

import pytest

from samepage.kernel.errors import SysError
from samepage.kernel.fs import attributes, hostcalls
from samepage.kernel.fs.context import Credentials
from tests.kernel.fs_helpers import boot, fails, names


def read_all(vfs, ctx, path):
    file = vfs.open(ctx, path, os.O_RDONLY)
    return file.read(1 << 20)


def write(vfs, ctx, path, data, flags=os.O_CREAT | os.O_WRONLY | os.O_TRUNC):
    file = vfs.open(ctx, path, flags, 0o644).get()
    assert file.write(data) == len(data)
    file.put()


def snapshot(root):
    """Everything about a host tree that a guest must not change."""
    found = {}
    for place, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(place, name)
            info = os.lstat(path)
            content = pathlib.Path(path).read_bytes() if stat.S_ISREG(info.st_mode) else b""
            found[path] = (info.st_mode, info.st_ino, info.st_mtime_ns, info.st_ctime_ns, content)
    return found


def test_all_names_of_a_file_reach_the_same_inode(vfs, ctx):
    inode = vfs.lookup(ctx, b"/file").inode
    for name in (b"/hard", b"/soft", b"/absolute", b"/dir/../file", b"/dirlink/../file"):
        assert vfs.lookup(ctx, name).inode is inode


def test_a_bind_mount_of_the_host_reaches_the_same_inode(tree):
    # /proc/self/root is the host's own alias of the tree, here in place of a bind mount.
    vfs = boot(tree)
    inode = vfs.lookup(vfs.context(), b"/file").inode
    assert vfs.hostfs.inode(os.fsencode(f"/proc/self/root{tree}/file")) is inode


def test_a_copy_is_another_inode(tree, vfs, ctx):
    (tree / "copy").write_bytes((tree / "file").read_bytes())
    assert vfs.lookup(ctx, b"/copy").inode is not vfs.lookup(ctx, b"/file").inode


def test_paths_never_leave_the_root(vfs, ctx):
    with fails(errno.ENOENT):
        vfs.lookup(ctx, b"/escape")
    assert vfs.lookup(ctx, b"/../../..") is vfs.root
    assert vfs.path_name(vfs.lookup(ctx, b"/dir/../../dir/inner")) == "/dir/inner"


def test_walk_errors(vfs, ctx):
    for path, number in (
        (b"", errno.ENOENT),
        (b"/nowhere", errno.ENOENT),
        (b"/dangling", errno.ENOENT),
        (b"/loop", errno.ELOOP),
        (b"/file/x", errno.ENOTDIR),
        (b"/file/", errno.ENOTDIR),
        (b"/soft/", errno.ENOTDIR),
        (b"/" + b"n" * 256, errno.ENAMETOOLONG),
        (b"/a" * 2048, errno.ENAMETOOLONG),
    ):
        with fails(number):
            vfs.lookup(ctx, path)
    assert vfs.lookup(ctx, b"/loop", follow=False).inode.is_symlink
    assert vfs.lookup(ctx, b"/dirlink/", follow=False).inode.is_dir


def test_exactly_forty_symlinks_are_followed(tree, vfs, ctx):
    for number in range(41):
        target = f"l{number - 1}" if number else "file"
        (tree / f"l{number}").symlink_to(target)
    assert read_all(vfs, ctx, b"/l39") == b"content of the host\n"
    with fails(errno.ELOOP):
        vfs.lookup(ctx, b"/l40")


def test_writing_copies_up_and_the_host_is_unchanged(tree, vfs, ctx):
    before = snapshot(tree)
    inode = vfs.lookup(ctx, b"/file").inode
    ino = inode.stat().ino
    early = vfs.open(ctx, b"/file", os.O_RDONLY)
    file = vfs.open(ctx, b"/file", os.O_RDWR)
    assert file.pwrite(b"CONTENT", 0) == 7
    assert read_all(vfs, ctx, b"/hard") == b"CONTENT of the host\n"
    assert early.read(7) == b"CONTENT"  # read() sees the copy
    assert vfs.stat(ctx, b"/soft").ino == ino
    # ... but what was opened before still maps the old pages, as in overlayfs.
    assert early.mappable is not file.mappable
    assert vfs.cache.read(early.mappable, 0, 7) == b"content"
    vfs.unlink(ctx, b"/hard")
    vfs.rename(ctx, b"/dir", b"/moved")
    attributes_of(vfs, ctx)
    assert snapshot(tree) == before


def attributes_of(vfs, ctx):
    inode = vfs.lookup(ctx, b"/big").inode
    attributes.chmod(ctx, inode, 0o4700)
    attributes.chown(ctx, inode, 5, 6)
    attributes.utimens(ctx, inode, 1, 2)
    attributes.setxattr(ctx, inode, b"user.note", b"x")
    attributes.truncate(ctx, inode, 10)
    info = inode.stat()
    assert (stat.S_IMODE(info.mode), info.uid, info.gid, info.size) == (0o700, 5, 6, 10)


def test_truncate_and_extend_shows_zeros_not_old_content(vfs, ctx):
    file = vfs.open(ctx, b"/big", os.O_RDWR)
    file.ftruncate(5000)
    file.ftruncate(25600)
    assert file.pread(25600, 0) == (bytes(range(256)) * 100)[:5000] + bytes(20600)
    file.pwrite(b"x", 25599)
    assert file.pread(2, 25598) == b"\0x"


def test_read_write_and_mapping_share_frames(vfs, ctx):
    file = vfs.open(ctx, b"/new", os.O_CREAT | os.O_RDWR, 0o600)
    file.write(b"a" * 5000)
    pfn = vfs.cache.get(file.mappable, 1)
    vfs.cache._frames.ram.frame(pfn)[0] = ord("b")
    assert file.pread(2, 4095) == b"ab"


def test_seek_data_and_hole(vfs, ctx):
    file = vfs.open(ctx, b"/sparse", os.O_CREAT | os.O_RDWR, 0o600)
    file.pwrite(b"x", 8192)
    assert file.lseek(0, os.SEEK_DATA) == 8192
    assert file.lseek(0, os.SEEK_HOLE) == 0
    assert file.lseek(8192, os.SEEK_HOLE) == 8193
    with fails(errno.ENXIO):
        file.lseek(9000, os.SEEK_DATA)


def test_append_writes_at_the_end(vfs, ctx):
    file = vfs.open(ctx, b"/file", os.O_WRONLY | os.O_APPEND)
    file.lseek(0, os.SEEK_SET)
    file.write(b"more")
    assert read_all(vfs, ctx, b"/file").endswith(b"host\nmore")


def test_listing_has_the_hosts_order_and_cookies(tree, vfs, ctx):
    fd = os.open(tree / "dir", os.O_RDONLY)
    native = hostcalls.list_directory(fd)
    os.close(fd)
    parent = next(entry.ino for entry in native if entry.name == b"..")
    assert vfs.lookup(ctx, b"/dir").inode.entries(parent) == native
    root = vfs.open(ctx, b"/", os.O_RDONLY | os.O_DIRECTORY)
    listed = [n for n in names(root) if n not in (b".", b"..", b"proc", b"sys", b"dev")]
    assert listed == [os.fsencode(entry) for entry in os.listdir(tree)]


def test_merged_listing_and_whiteouts(vfs, ctx):
    vfs.unlink(ctx, b"/dir/inner")
    assert names(vfs.open(ctx, b"/dir", os.O_RDONLY)) == [b".", b".."]
    write(vfs, ctx, b"/dir/new", b"1")
    write(vfs, ctx, b"/dir/inner", b"2")
    assert set(names(vfs.open(ctx, b"/dir", os.O_RDONLY))) == {b".", b"..", b"new", b"inner"}
    assert read_all(vfs, ctx, b"/dir/inner") == b"2"


def test_a_directory_made_anew_is_opaque(vfs, ctx):
    vfs.unlink(ctx, b"/dir/inner")
    vfs.rmdir(ctx, b"/dir")
    vfs.mkdir(ctx, b"/dir", 0o755)
    with fails(errno.ENOENT):
        vfs.lookup(ctx, b"/dir/inner")


def test_seeking_in_a_directory(vfs, ctx):
    file = vfs.open(ctx, b"/", os.O_RDONLY)
    everything = names(file)
    file.lseek(0, os.SEEK_SET)
    first = file.getdents64(24)
    place = file.lseek(0, os.SEEK_CUR)
    rest = names(file)
    assert [first[19:].split(b"\0")[0], *rest] == everything
    file.lseek(place, os.SEEK_SET)
    assert names(file) == rest
    with fails(errno.EINVAL):
        file.lseek(0, os.SEEK_SET)
        file.getdents64(10)


def test_permissions_of_an_ordinary_user(tree):
    tree.chmod(0o755)
    (tree / "file").chmod(0o640)
    (tree / "dir").chmod(0o700)
    vfs = boot(tree)
    ctx = vfs.context(Credentials.of_user(12345, 12345))
    with fails(errno.EACCES):
        vfs.open(ctx, b"/file", os.O_RDONLY)
    with fails(errno.EACCES):
        vfs.lookup(ctx, b"/dir/inner")
    with fails(errno.EACCES):
        vfs.access(ctx, b"/big", os.W_OK)
    vfs.access(ctx, b"/big", os.R_OK)


def test_an_executing_file_cannot_be_written(vfs, ctx):
    vfs.lookup(ctx, b"/file").inode.executing = 1
    with fails(errno.ETXTBSY):
        vfs.open(ctx, b"/file", os.O_WRONLY)


def test_host_fifos_sockets_and_devices_are_never_opened(tree, vfs, ctx):
    os.mkfifo(tree / "fifo")
    file = vfs.open(ctx, b"/fifo", os.O_RDONLY)  # on the host this would hang
    assert file.opening
    writer = vfs.open(ctx, b"/fifo", os.O_WRONLY)
    assert not file.opening
    assert not writer.opening
    if os.geteuid() == 0:
        os.mknod(tree / "mem", 0o666 | stat.S_IFCHR, os.makedev(1, 1))
        with fails(errno.ENXIO):
            vfs.open(ctx, b"/mem", os.O_RDONLY)


def test_pseudo_file_systems_of_the_host_are_shown_empty():
    vfs = boot("/proc")
    ctx = vfs.context()
    assert set(names(vfs.open(ctx, b"/", os.O_RDONLY))) == {b".", b"..", b"proc", b"sys", b"dev"}
    with fails(errno.ENOENT):
        vfs.lookup(ctx, b"/version")


def test_unnamed_temporary_files(vfs, ctx):
    file = vfs.open(ctx, b"/dir", 0o20000000 | os.O_DIRECTORY | os.O_RDWR, 0o600)
    file.write(b"x")
    assert file.fstat().nlink == 0
    vfs.link(ctx, file.path, b"/dir/named")
    assert read_all(vfs, ctx, b"/dir/named") == b"x"


def test_nofollow_directory_and_exclusive_flags(vfs, ctx):
    for path, flags, number in (
        (b"/soft", os.O_NOFOLLOW, errno.ELOOP),
        (b"/dirlink", os.O_NOFOLLOW | os.O_DIRECTORY, errno.ENOTDIR),
        (b"/file", os.O_DIRECTORY, errno.ENOTDIR),
        (b"/file", os.O_CREAT | os.O_EXCL, errno.EEXIST),
        (b"/dangling", os.O_CREAT | os.O_EXCL, errno.EEXIST),
        (b"/dir", os.O_CREAT, errno.EISDIR),
        (b"/dir", os.O_WRONLY, errno.EISDIR),
        (b"/new/", os.O_CREAT, errno.EISDIR),
    ):
        with fails(number):
            vfs.open(ctx, path, flags)
    vfs.open(ctx, b"/dangling", os.O_CREAT | os.O_WRONLY, 0o600)
    assert vfs.stat(ctx, b"/nowhere").size == 0


def test_working_directory_follows_a_rename_and_notices_removal(vfs, ctx):
    vfs.mkdir(ctx, b"/a", 0o755)
    vfs.mkdir(ctx, b"/a/b", 0o755)
    vfs.chdir(ctx, vfs.lookup(ctx, b"/a/b"))
    vfs.rename(ctx, b"/a", b"/c")
    assert vfs.getcwd(ctx) == b"/c/b"
    vfs.rmdir(ctx, b"/c/b")
    with fails(errno.ENOENT):
        vfs.getcwd(ctx)
    with fails(errno.ENOENT):
        vfs.mkdir(ctx, b"x", 0o755)


def test_chroot_holds_dotdot_and_absolute_links(vfs, ctx):
    vfs.symlink(ctx, b"/inner", b"/dir/link")
    vfs.chroot(ctx, vfs.lookup(ctx, b"/dir"))
    vfs.chdir(ctx, vfs.lookup(ctx, b"/"))
    assert read_all(vfs, ctx, b"/link") == b"inner\n"
    assert vfs.lookup(ctx, b"../../..") is ctx.root
    assert vfs.getcwd(ctx) == b"/"


def test_devices(vfs, ctx):
    null = vfs.open(ctx, b"/dev/null", os.O_RDWR)
    assert (null.read(5), null.write(b"abc")) == (b"", 3)
    zero = vfs.open(ctx, b"/dev/zero", os.O_RDONLY)
    assert zero.read(3) == bytes(3)
    assert zero.maps_anonymous
    with fails(errno.ENOSPC):
        vfs.open(ctx, b"/dev/full", os.O_WRONLY).write(b"x")
    assert len(vfs.open(ctx, b"/dev/urandom", os.O_RDONLY).read(7)) == 7
    with fails(errno.ENXIO):
        vfs.open(ctx, b"/dev/tty", os.O_RDWR)


def test_random_bytes_are_those_of_the_seed(tree):
    first, second = boot(tree), boot(tree)
    for path in (b"/dev/urandom", b"/dev/random"):
        values = {vfs.open(vfs.context(), path, 0).read(16) for vfs in (first, second)}
        assert len(values) == 1


def test_stat_matches_the_host(tree, vfs, ctx):
    for name in os.listdir(tree):
        ours = vfs.stat(ctx, b"/" + os.fsencode(name), follow=False)
        theirs = os.lstat(tree / name)
        for field in ("mode", "ino", "dev", "nlink", "uid", "gid", "size", "blocks", "blksize"):
            assert getattr(ours, field) == getattr(theirs, f"st_{field}"), (name, field)
        assert ours.mtime_ns == theirs.st_mtime_ns
        assert len(ours.pack()) == 144
        assert len(ours.pack_statx()) == 256


def data_and_holes(seek, size):
    found, at = [], 0
    while at < size:
        try:
            start = seek(at, os.SEEK_DATA)
        except (OSError, SysError):
            break
        at = seek(start, os.SEEK_HOLE)
        found.append((start, at))
    return found


@pytest.mark.parametrize("page", [None, 0, 4, 5, 6, 9, 10, 19])
def test_holes_of_a_host_file_are_those_of_the_host(tree, page):
    size = 20 * 4096 - 100
    path = tree / "sparse"
    with open(path, "wb") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"d" * 8192, 5 * 4096)
        os.pwrite(file.fileno(), b"d" * 4096, 10 * 4096)
    vfs = boot(tree)
    ctx = vfs.context()
    ours = vfs.open(ctx, b"/sparse", os.O_RDONLY if page is None else os.O_RDWR)
    with open(path, "r+b") as host:
        if page is not None:
            ours.pwrite(b"own", page * 4096 + 50)
            os.pwrite(host.fileno(), b"own", page * 4096 + 50)

        def native(offset, whence):
            return os.lseek(host.fileno(), offset, whence)

        assert data_and_holes(ours.lseek, size) == data_and_holes(native, size)
