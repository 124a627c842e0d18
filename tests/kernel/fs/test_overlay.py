"""The model's files against the live kernel: random operations, done in both.

One copy of a tree is the lower side of the model, the other is a real tree that a chrooted
process works on. Every result and errno must be the same, and after each step the whole
trees are compared. At the end the lower side must be as it was at the start.
"""

import errno
import os
import pathlib
import random
import shutil
import stat
import tempfile
import zlib

import pytest
from chroot_oracle import Chrooted
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from samepage.kernel.errors import SysError
from samepage.kernel.fs import attributes
from samepage.kernel.fs.context import Credentials
from tests.kernel.fs_helpers import boot, names

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the oracle needs chroot, so root")

HIDDEN = (b"proc", b"sys", b"dev")
"""What the model mounts; the real tree has empty directories there."""


class Model:
    """Does the same operations with the model's files."""

    def __init__(self, root):
        self.vfs = boot(root)
        self.ctx = self.vfs.context()
        self.files = {}

    def become(self, uid, gid):
        self.ctx.cred = Credentials(0, uid, 0, uid, 0, gid, 0, gid)

    def open(self, key, path, flags, mode):
        self.files[key] = self.vfs.open(self.ctx, path, flags | os.O_NONBLOCK, mode).get()

    def close(self, key):
        self.files.pop(key).put()

    def read(self, key, length):
        return self.files[key].read(length)

    def write(self, key, data):
        return self.files[key].write(data)

    def pread(self, key, length, offset):
        return self.files[key].pread(length, offset)

    def pwrite(self, key, data, offset):
        return self.files[key].pwrite(data, offset)

    def lseek(self, key, offset, whence):
        return self.files[key].lseek(offset, whence)

    def ftruncate(self, key, size):
        self.files[key].ftruncate(size)

    def fstat(self, key):
        return brief(self.files[key].fstat())

    def mkdir(self, path, mode):
        self.vfs.mkdir(self.ctx, path, mode)

    def rmdir(self, path):
        self.vfs.rmdir(self.ctx, path)

    def unlink(self, path):
        self.vfs.unlink(self.ctx, path)

    def rename(self, old, new, flags):
        self.vfs.rename(self.ctx, old, new, flags)

    def link(self, old, new):
        self.vfs.link(self.ctx, self.vfs.lookup(self.ctx, old, follow=False), new)

    def symlink(self, target, path):
        self.vfs.symlink(self.ctx, target, path)

    def readlink(self, path):
        return self.vfs.readlink(self.ctx, path)

    def mkfifo(self, path, mode):
        self.vfs.mknod(self.ctx, path, stat.S_IFIFO | mode)

    def chmod(self, path, mode):
        attributes.chmod(self.ctx, self.vfs.lookup(self.ctx, path).inode, mode)

    def chown(self, path, uid, gid):
        attributes.chown(self.ctx, self.vfs.lookup(self.ctx, path).inode, uid, gid)

    def truncate(self, path, size):
        attributes.truncate(self.ctx, self.vfs.lookup(self.ctx, path).inode, size)

    def utime(self, path, atime, mtime):
        attributes.utimens(self.ctx, self.vfs.lookup(self.ctx, path).inode, atime, mtime)

    def access(self, path, mode):
        self.vfs.access(self.ctx, path, mode, effective=True)

    def stat(self, path, follow):
        return brief(self.vfs.stat(self.ctx, path, follow=follow))

    def listdir(self, path):
        file = self.vfs.open(self.ctx, path, os.O_RDONLY | os.O_DIRECTORY)
        return sorted(name for name in names(file) if name not in (b".", b".."))

    def chdir(self, path):
        self.vfs.chdir(self.ctx, self.vfs.lookup(self.ctx, path))

    def getcwd(self):
        return self.vfs.getcwd(self.ctx)

    def dump(self):
        ctx = self.vfs.context()
        found = []
        groups = {}
        pending = [b"/"]
        while pending:
            path = pending.pop()
            inode = self.vfs.lookup(ctx, path, follow=False).inode
            group = groups.setdefault(inode.stat().ino, len(groups))
            content = None
            if inode.is_dir:
                inner = sorted(set(names(self.vfs.open(ctx, path, os.O_RDONLY))) - {b".", b".."})
                pending += [path.rstrip(b"/") + b"/" + name for name in inner]
            elif stat.S_ISREG(inode.mode):
                file = self.vfs.open(ctx, path, os.O_RDONLY).get()
                content = zlib.crc32(file.read(1 << 20))
                file.put()
            elif inode.is_symlink:
                content = inode.readlink()
            found.append((path, group, brief(inode.stat()), content))
        return found


def brief(info):
    size = 0 if stat.S_ISDIR(info.mode) else info.size
    return info.mode, info.nlink, info.uid, info.gid, size


NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"l", b"..", b".", b"f"])
PLAIN = [b"a", b"a/b", b"a/b/c", b"a/f", b"a/l", b"c", b"c/d", b"c/l", b"d", b"f", b"l", b"l/f"]
PLAIN += [b"new", b"a/new", b"c/new", b"c/d/new", b"l/b/new", b"c/l/new", b"a/b/../new", b"c/d/x"]
WALKS = st.builds(
    lambda parts, lead, trail: lead + b"/".join(parts) + trail,
    st.lists(NAMES, min_size=1, max_size=3),
    st.sampled_from([b"", b"", b"/", b"//"]),
    st.sampled_from([b"", b"", b"", b"", b"/", b"/."]),
)
PATHS = st.one_of(st.sampled_from(PLAIN), st.sampled_from(PLAIN), WALKS)
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o700, 0o1777, 0o2755, 0o4711, 0o000])
SIZES = st.sampled_from([0, 1, 7, 4095, 4096, 4097, 10000])
DATA = st.sampled_from([b"", b"x", b"hello", b"p" * 4096, b"q" * 5001])
KEYS = st.integers(0, 2)
FLAGS = st.builds(
    lambda access, *more: access | sum(more),
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]),
    st.sampled_from([0, 0, os.O_CREAT]),
    st.sampled_from([0, 0, 0, os.O_EXCL]),
    st.sampled_from([0, 0, os.O_TRUNC]),
    st.sampled_from([0, 0, os.O_APPEND]),
    st.sampled_from([0, 0, 0, os.O_NOFOLLOW]),
    st.sampled_from([0, 0, 0, 0, os.O_DIRECTORY]),
)


def make_tree(root):
    """The start of both sides."""
    root.chmod(0o755)
    (root / "a" / "b").mkdir(parents=True)
    (root / "f").write_bytes(b"file on the host\n" * 300)
    (root / "a" / "f").write_bytes(b"inner")
    (root / "a" / "b" / "c").write_bytes(b"")
    (root / "c").mkdir()
    os.link(root / "f", root / "d")
    (root / "l").symlink_to("a")
    (root / "a" / "l").symlink_to("../../../f")
    (root / "c" / "l").symlink_to("/a/b/")
    (root / "c" / "d").mkdir(mode=0o777)
    for name in HIDDEN:
        (root / os.fsdecode(name)).mkdir()


def snapshot(root):
    found = {}
    for place, directories, files in os.walk(root):
        for name in [".", *directories, *files]:
            path = pathlib.Path(place, name)
            info = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
            found[path] = (*info[:7], info.st_mtime_ns, info.st_ctime_ns, content)
    return found


class Pair:
    """The model and a chrooted process, each over its own copy of the same tree."""

    def __init__(self):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="samepage-overlay-"))
        self.place.chmod(0o755)
        self.lower, real = self.place / "lower", self.place / "real"
        for root in (self.lower, real):
            root.mkdir()
            make_tree(root)
        self.before = snapshot(self.lower)
        self.model = Model(self.lower)
        for name in HIDDEN:  # as empty as in the real tree
            self.model.vfs.root.children[name].mounted = None
        self.native = Chrooted(real)

    def both(self, name, *arguments):
        """Do one operation in both; what came out, if it is the same."""
        theirs = self.native(name, *arguments)
        try:
            ours = getattr(self.model, name)(*arguments)
        except SysError as error:
            ours = errno.errorcode[error.errno]
        if name == "dump":
            wrong = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
            assert not wrong, f"(model, Linux): {wrong[0]}"
        assert ours == theirs, f"{name}{arguments}: model {ours!r}, Linux {theirs!r}"
        return ours

    def close(self):
        self.native.close()
        assert snapshot(self.lower) == self.before
        shutil.rmtree(self.place)


class BothKernels(RuleBasedStateMachine):
    """Every rule is one operation, done by both."""

    @initialize()
    def start(self):
        self.pair = Pair()
        self.both = self.pair.both
        self.open_keys = set()

    def teardown(self):
        if hasattr(self, "pair"):
            self.pair.close()

    @invariant()
    def trees_are_equal(self):
        if hasattr(self, "pair"):
            self.both("dump")

    @rule(uid=st.sampled_from([0, 0, 1000, 1001]))
    def become(self, uid):
        self.both("become", uid, uid)
        for key in self.open_keys:
            self.both("close", key)
        self.open_keys.clear()

    @rule(key=KEYS, path=PATHS, flags=FLAGS, mode=MODES)
    def open(self, key, path, flags, mode):
        if key in self.open_keys:
            self.both("close", key)
            self.open_keys.discard(key)
        if self.both("open", key, path, flags, mode) is None:
            self.open_keys.add(key)

    @rule(key=KEYS, operation=st.sampled_from(["read", "write", "pread", "pwrite"]), data=DATA)
    def transfer(self, key, operation, data):
        if key in self.open_keys:
            value = len(data) if operation.endswith("read") else data
            offset = [len(data)] if operation.startswith("p") else []
            self.both(operation, key, value, *offset)

    @rule(key=KEYS, offset=st.integers(-5, 9000), whence=st.sampled_from([0, 1, 2]))
    def lseek(self, key, offset, whence):
        if key in self.open_keys and not stat.S_ISDIR(self.both("fstat", key)[0]):
            self.both("lseek", key, offset, whence)

    @rule(key=KEYS, size=SIZES)
    def ftruncate(self, key, size):
        if key in self.open_keys:
            self.both("ftruncate", key, size)

    @rule(path=PATHS, mode=MODES)
    def mkdir(self, path, mode):
        self.both("mkdir", path, mode)

    @rule(path=PATHS, operation=st.sampled_from(["rmdir", "unlink"]))
    def remove(self, path, operation):
        self.both(operation, path)

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 1, 2, 3]))
    def rename(self, old, new, flags):
        self.both("rename", old, new, flags)

    @rule(old=PATHS, new=PATHS)
    def link(self, old, new):
        self.both("link", old, new)

    @rule(
        text=st.one_of(PATHS, st.sampled_from([b"", b"/", b"l", b"../../..", b"/l/"])), path=PATHS
    )
    def symlink(self, text, path):
        self.both("symlink", text, path)

    @rule(path=PATHS)
    def mkfifo(self, path):
        self.both("mkfifo", path, 0o666)

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path, mode):
        self.both("chmod", path, mode)

    @rule(path=PATHS, uid=st.sampled_from([-1, 0, 1000]), gid=st.sampled_from([-1, 0, 1000]))
    def chown(self, path, uid, gid):
        self.both("chown", path, uid, gid)

    @rule(path=PATHS, size=SIZES)
    def truncate(self, path, size):
        self.both("truncate", path, size)

    @rule(path=PATHS)
    def utime(self, path):
        self.both("utime", path, 1_000_000_007, 2_000_000_009)

    @rule(path=PATHS, mode=st.integers(0, 7))
    def access(self, path, mode):
        self.both("access", path, mode)

    @rule(path=PATHS, follow=st.booleans())
    def look(self, path, follow):
        self.both("stat", path, follow)
        self.both("readlink", path)
        self.both("listdir", path)

    @rule(path=PATHS)
    def chdir(self, path):
        self.both("chdir", path)
        self.both("getcwd")


BothKernels.TestCase.settings = settings(
    max_examples=int(os.environ.get("SAMEPAGE_FS_EXAMPLES", "15")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestBothKernels = BothKernels.TestCase


class Walk:
    """A long random walk that mostly uses names which exist."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pair = Pair()
        self.keys = set()

    def path(self):
        choose = self.random.random()
        if choose < 0.25:
            return self.random.choice(PLAIN)
        paths = [entry[0] for entry in self.dump]
        path = self.random.choice(paths)
        if choose < 0.6:
            return path + self.random.choice([b"", b"", b"/", b"/.", b"/.."])
        if choose < 0.7:
            return path[1:] or b"."
        return path.rstrip(b"/") + self.random.choice([b"/x", b"/y", b"/../z", b"/a/b", b"/f"])

    def step(self):
        rand, both = self.random, self.pair.both
        modes, sizes = [0o644, 0o755, 0o700, 0o1777, 0o2775, 0o4755, 0], [0, 5, 4096, 9000]
        name = rand.choice(OPERATIONS)
        if name == "become":
            user = rand.choice([0, 0, 0, 1000])
            both("become", user, user)
            # Which capabilities a write has is decided at open in the model, then in Linux.
            for key in self.keys:
                both("close", key)
            self.keys.clear()
        elif name == "open":
            key = rand.randrange(4)
            if key in self.keys:
                both("close", key)
                self.keys.discard(key)
            flags = rand.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
            for flag, chance in ((os.O_CREAT, 0.5), (os.O_EXCL, 0.1), (os.O_TRUNC, 0.2)):
                flags |= flag if rand.random() < chance else 0
            for flag, chance in ((os.O_APPEND, 0.2), (os.O_NOFOLLOW, 0.1), (os.O_DIRECTORY, 0.05)):
                flags |= flag if rand.random() < chance else 0
            if both("open", key, self.path(), flags, rand.choice(modes)) is None:
                self.keys.add(key)
        elif name == "transfer":
            for key in sorted(self.keys):
                if not stat.S_ISFIFO(both("fstat", key)[0]):
                    both("write", key, bytes([rand.randrange(256)]) * rand.choice(sizes))
                    both("pread", key, 5000, rand.randrange(9000))
        elif name == "ftruncate":
            for key in sorted(self.keys):
                both("ftruncate", key, rand.choice(sizes))
        elif name in ("mkdir", "chmod", "mkfifo"):
            both(name, self.path(), rand.choice(modes))
        elif name == "truncate":
            both(name, self.path(), rand.choice(sizes))
        elif name == "rename":
            both(name, self.path(), self.path(), rand.choice([0, 0, 0, 1, 2]))
        elif name in ("link", "symlink"):
            both(name, self.path(), self.path())
        elif name == "chown":
            both(name, self.path(), rand.choice([-1, 0, 1000]), rand.choice([-1, 0, 1000]))
        elif name == "access":
            both(name, self.path(), rand.randrange(8))
        elif name == "stat":
            both(name, self.path(), rand.random() < 0.5)
        else:
            both(name, self.path())
            if name == "chdir":
                both("getcwd")

    def run(self, steps):
        for number in range(steps):
            if number % 5 == 0:
                self.dump = self.pair.both("dump")
            self.step()
        self.pair.close()


OPERATIONS = ["become", "open", "open", "transfer", "transfer", "ftruncate", "mkdir", "mkdir"]
OPERATIONS += ["chmod", "mkfifo", "truncate", "rename", "rename", "link", "symlink", "chown"]
OPERATIONS += ["access", "stat", "rmdir", "unlink", "readlink", "listdir", "chdir"]


SEEDS = [int(part) for part in os.environ.get("SAMEPAGE_FS_SEEDS", "0:3").split(":")]
"""Which random walks to take, as first:last."""


@pytest.mark.parametrize("seed", range(*SEEDS))
def test_long_walk(seed):
    Walk(seed).run(700)
