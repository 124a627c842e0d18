"""The live kernel as an oracle: file operations in a child process that is chrooted."""

import contextlib
import ctypes
import errno
import os
import pickle
import stat
import struct
import zlib


def _renameat2(libc, old, new, flags):
    if libc.renameat2(-100, old, -100, new, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Native:
    """Does operations with the host's system calls, relative to its own root."""

    def __init__(self):
        self.files = {}
        self.libc = ctypes.CDLL(None, use_errno=True)

    def become(self, uid, gid):
        os.seteuid(0)
        os.setegid(gid)
        os.seteuid(uid)

    def open(self, key, path, flags, mode):
        self.files[key] = os.open(path, flags | os.O_NONBLOCK, mode)

    def close(self, key):
        os.close(self.files.pop(key))

    def read(self, key, length):
        return os.read(self.files[key], length)

    def write(self, key, data):
        return os.write(self.files[key], data)

    def pread(self, key, length, offset):
        return os.pread(self.files[key], length, offset)

    def pwrite(self, key, data, offset):
        return os.pwrite(self.files[key], data, offset)

    def lseek(self, key, offset, whence):
        return os.lseek(self.files[key], offset, whence)

    def ftruncate(self, key, size):
        os.ftruncate(self.files[key], size)

    def fstat(self, key):
        return brief(os.fstat(self.files[key]))

    def mkdir(self, path, mode):
        os.mkdir(path, mode)  # noqa: PTH102 - the paths are bytes

    def rmdir(self, path):
        os.rmdir(path)  # noqa: PTH106

    def unlink(self, path):
        os.unlink(path)

    def rename(self, old, new, flags):
        _renameat2(self.libc, old, new, flags)

    def link(self, old, new):
        os.link(old, new, follow_symlinks=False)

    def symlink(self, target, path):
        os.symlink(target, path)

    def readlink(self, path):
        return os.readlink(path)

    def mkfifo(self, path, mode):
        os.mkfifo(path, mode)

    def chmod(self, path, mode):
        os.chmod(path, mode)  # noqa: PTH101

    def chown(self, path, uid, gid):
        os.chown(path, uid, gid)

    def truncate(self, path, size):
        os.truncate(path, size)

    def utime(self, path, atime, mtime):
        os.utime(path, ns=(atime, mtime))

    def access(self, path, mode):
        if self.libc.faccessat(-100, path, mode, 0x200):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def stat(self, path, follow):
        return brief(os.stat(path, follow_symlinks=follow))

    def listdir(self, path):
        return sorted(os.listdir(path))

    def chdir(self, path):
        os.chdir(path)

    def getcwd(self):
        return os.getcwdb()

    def dump(self):
        """The whole tree: names, attributes, contents, and which names are one file."""
        euid, egid = os.geteuid(), os.getegid()
        self.become(0, 0)
        found = []
        groups = {}
        pending = [b"/"]
        while pending:
            path = pending.pop()
            info = os.lstat(path)
            group = groups.setdefault(info.st_ino, len(groups))
            content = None
            if stat.S_ISDIR(info.st_mode):
                names = sorted(os.listdir(path))
                pending += [path.rstrip(b"/") + b"/" + name for name in names]
            elif stat.S_ISREG(info.st_mode):
                fd = os.open(path, os.O_RDONLY)
                content = zlib.crc32(os.read(fd, 1 << 20))
                os.close(fd)
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            found.append((path, group, brief(info), content))
        self.become(euid, egid)
        return found


def brief(info):
    """What both kernels must agree on; a directory's size is the file system's matter."""
    size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    return info.st_mode, info.st_nlink, info.st_uid, info.st_gid, size


def outcome(call):
    """The result of a call, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


class Chrooted:
    """A child process that answers operations inside `root`. Needs root."""

    def __init__(self, root):
        ours, theirs = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ours[1])  # else the end of requests would never be seen
            os.close(theirs[0])
            with contextlib.suppress(BaseException):
                self._serve(root, ours[0], theirs[1])
            os._exit(0)
        os.close(ours[0])
        os.close(theirs[1])
        self._requests, self._answers = ours[1], theirs[0]

    @staticmethod
    def _serve(root, requests, answers):
        os.chroot(root)
        os.chdir("/")
        os.umask(0o022)
        native = Native()
        while (request := _receive(requests)) is not None:
            name, arguments = request
            _send(answers, outcome(lambda: getattr(native, name)(*arguments)))  # noqa: B023

    def __call__(self, name, *arguments):
        _send(self._requests, (name, arguments))
        return _receive(self._answers)

    def close(self):
        os.close(self._requests)
        os.close(self._answers)
        os.waitpid(self.pid, 0)


def _send(fd, value):
    data = pickle.dumps(value)
    data = struct.pack("<I", len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


def _receive(fd):
    head = _read(fd, 4)
    return pickle.loads(_read(fd, struct.unpack("<I", head)[0])) if head else None


def _read(fd, length):
    data = b""
    while len(data) < length:
        part = os.read(fd, length - len(data))
        if not part:
            return b""
        data += part
    return data
