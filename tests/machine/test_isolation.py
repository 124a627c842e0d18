"""Hostile programs: nothing that a guest does reaches the host.

Each program tries to do harm, as root where the tests run as root. Most print the answers of
the kernel, so that a refusal is seen to be the model's, not an accident.
"""

import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from samepage import Machine
from samepage.errors import SamepageError
from tests.kernel.programs import ENVIRONMENT

PYTHON = "/usr/bin/python3"
SECRET = "the host's secret"


def run(machine: Machine, *argv: str, cwd: str | None = None) -> tuple[int, str]:
    """The exit status of a guest, and what it wrote."""
    with open(os.devnull, "wb") as null:
        guest = machine.spawn(argv, env=ENVIRONMENT, cwd=cwd, stderr=null.fileno())
        code = machine.run(guest)
    assert code is not None
    return code, guest.stdout.decode()


def python(machine: Machine, source: str, cwd: str | None = None) -> str:
    """What a Python program on the model prints; it must end well."""
    code, output = run(machine, PYTHON, "-S", "-c", source, cwd=cwd)
    assert code == 0, output
    return output


def picture(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that a change would change; atime is left out, since
    reading sets it."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        for name in [".", *names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[path] = (
                status.st_mode,
                status.st_ino,
                status.st_nlink,
                status.st_uid,
                status.st_gid,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                tuple(os.listxattr(path, follow_symlinks=False)),
                content,
            )
    return found


def copy_program(root: Path, name: str) -> None:
    """Copy a program and the libraries that it needs into a root of its own."""
    program = shutil.which(name)
    assert program is not None
    real = os.path.realpath(program)
    lines = subprocess.run(["ldd", real], capture_output=True, text=True, check=True).stdout
    libraries = [word for word in lines.split() if word.startswith("/")]
    for path in [program, *libraries]:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(os.path.realpath(path), target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small system of its own, beside a secret that it must not see."""
    top = tmp_path / "root"
    top.mkdir()
    for name in ("bash", "cat", "ls", "rm", "mv", "chmod", "truncate", "readlink"):
        copy_program(top, name)
    (top / "data").mkdir()
    (top / "data" / "file").write_text("content\n")
    os.link(top / "data" / "file", top / "data" / "link")
    (top / "data" / "symlink").symlink_to("file")
    (tmp_path / "secret").write_text(SECRET)
    return top


def test_removing_everything_changes_no_byte_and_no_time_of_the_host(root: Path) -> None:
    before = picture(root)
    machine = Machine("512M", root=str(root), timeout=60)
    code, output = run(
        machine, "/usr/bin/bash", "-c", "rm -rf --no-preserve-root /* ; echo /*", cwd="/"
    )
    assert "/data" not in output.split()
    assert "/usr" not in output.split()
    assert code == 0
    assert picture(root) == before
    with pytest.raises(SamepageError) as error:
        machine.spawn(["/usr/bin/ls"], cwd="/")
    assert error.value.exit_status == 127
    assert run(Machine("512M", root=str(root)), "/usr/bin/cat", "/data/file", cwd="/") == (
        0,
        "content\n",
    )


CHANGES = """
import os, mmap
def attempt(call, *arguments):
    try:
        call(*arguments)
        print("done", end=" ")
    except OSError as error:
        print(call.__name__, error.errno, end=" ")
fd = os.open("file", os.O_RDWR)
os.write(fd, b"CHANGED")
os.pwrite(fd, b"more", 20000)
page = mmap.mmap(fd, 4096)
page[100:104] = b"page"
page.flush()
os.fsync(fd)
os.fchmod(fd, 0o777)
attempt(os.fchown, fd, 1, 2)
os.utime("file", (1, 2))
attempt(os.setxattr, "file", "user.x", b"1")
os.truncate("other", 3)
os.rename("other", "renamed")
os.link("file", "hard")
os.symlink("file", "soft")
os.mkdir("new")
os.rmdir("empty")
os.unlink("victim")
os.mkfifo("fifo")
os.chmod(".", 0o700)
open("created", "w").write("x")
os.rename("directory", "moved")
open("moved/inner", "a").write("more")
os.sync()
"""


def test_no_change_of_a_file_reaches_the_host(tmp_path: Path) -> None:
    for name in ("file", "other", "victim"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "inner").write_text("inner")
    before = picture(tmp_path)
    machine = Machine("512M", timeout=60)
    python(machine, CHANGES, cwd=str(tmp_path))
    assert picture(tmp_path) == before
    names = run(machine, "ls", str(tmp_path))[1].split()
    assert names == ["created", "fifo", "file", "hard", "moved", "new", "renamed", "soft"]


def test_a_file_that_the_user_may_not_write_is_not_written_through_a_mapping(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    source = f"""
import mmap
file = open({str(path)!r}, "rb")
pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
pages[:] = b"y" * 8192
try:
    mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
except PermissionError:
    print("refused")
"""
    assert python(Machine("512M"), source) == "refused\n"
    assert path.read_bytes() == b"x" * 8192


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host that a guest must not reach."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        assert process.poll() is None, "the guest's signal reached a process of the host"
        process.kill()


def test_signals_reach_no_process_of_the_host(bystander: subprocess.Popen[bytes]) -> None:
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = {
        number: signal.signal(number, lambda got, _: received.append(got)) for number in numbers
    }
    pids = [bystander.pid, os.getpid(), os.getppid(), os.getpgrp()]
    source = f"""
import os, signal
for pid in {pids!r}:
    for target in (pid, -pid):
        for number in (0, {signal.SIGTERM}, {signal.SIGUSR1}, {signal.SIGKILL}):
            try:
                os.kill(target, number)
                print("reached", target)
            except ProcessLookupError:
                pass
    try:
        os.pidfd_open(pid)
        print("opened", pid)
    except OSError:
        pass
print("end")
"""
    try:
        machine = Machine("512M", timeout=60)
        assert python(machine, source) == "end\n"
        guest = machine.spawn(["bash", "-c", "kill -9 -1; kill -HUP 0; kill -TERM -1; echo end"])
        machine.run(guest)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not received


def test_no_socket_of_the_host_can_be_opened_or_reached(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    source = f"""
import socket, errno
def attempt(what, call):
    try:
        call()
        print(what, "done")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"):
    attempt(family, lambda: socket.socket(getattr(socket, family), socket.SOCK_RAW))
attempt("inet stream", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("connect", lambda: socket.socket(socket.AF_UNIX).connect({str(path)!r}))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0samepage-test"))
"""
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        listener.bind(str(path))
        abstract.bind("\0samepage-test")
        for server in (listener, abstract):
            server.listen()
            server.settimeout(0.05)
        output = python(Machine("512M", timeout=60), source)
        for server in (listener, abstract):
            with pytest.raises(TimeoutError):
                server.accept()
    lines = dict(line.rsplit(None, 1) for line in output.splitlines())
    assert set(lines.values()) <= {"EAFNOSUPPORT", "ECONNREFUSED", "EPROTONOSUPPORT", "ENOENT"}
    assert lines["AF_INET"] == lines["AF_INET6"] == lines["inet stream"] == "EAFNOSUPPORT"
    assert lines["connect"] == "ECONNREFUSED"


PRIVILEGED = """
import ctypes, os, errno
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    "mount": (165, b"none", b"/mnt", b"tmpfs", 0, 0),
    "umount2": (166, b"/proc", 2),
    "pivot_root": (155, b"/", b"/mnt"),
    "swapon": (167, b"/dev/sda", 0),
    "reboot": (169, 0xFEE1DEAD, 672274793, 0x1234567, 0),
    "sethostname": (170, b"evil", 4),
    "init_module": (175, b"", 0, b""),
    "ptrace": (101, 16, 1, 0, 0),
    "process_vm_writev": (311, os.getppid() or 1, 0, 0, 0, 0, 0),
    "iopl": (172, 3),
    "ioperm": (173, 0, 1024, 1),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "setns": (308, 0, 0),
    "unshare": (272, 0x10000000),
    "open_by_handle_at": (304, -100, 0, 0),
    "io_uring_setup": (425, 8, 0),
    "settimeofday": (164, 0, 0),
    "keyctl": (250, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "acct": (163, b"/tmp/acct"),
    "quotactl": (179, 0, 0, 0, 0),
    "syslog": (103, 5, 0, 0),
}
for name, (number, *arguments) in calls.items():
    result = libc.syscall(number, *arguments)
    code = ctypes.get_errno()
    print(name, result if result != -1 else errno.errorcode.get(code, code))
"""


def test_calls_that_change_the_whole_machine_are_refused_or_stay_in_the_model() -> None:
    host = os.uname().nodename
    mounts = Path("/proc/self/mountinfo").read_text()
    output = python(Machine("512M", timeout=60), PRIVILEGED)
    results = dict(line.split() for line in output.splitlines())
    assert len(results) == 23
    refused = {"EPERM", "ENOSYS", "EINVAL", "ESRCH", "EBADF", "ENODEV", "EFAULT", "ENOTBLK"}
    allowed = {name for name, result in results.items() if result not in refused}
    # The model's own name, clock and namespaces may change; the host's do not.
    assert allowed <= {"sethostname", "settimeofday", "unshare"}, results
    assert os.uname().nodename == host
    assert Path("/proc/self/mountinfo").read_text() == mounts


DEVICES = """
import os, stat, errno
for major, minor, kind in ((8, 0, stat.S_IFBLK), (1, 1, stat.S_IFCHR), (1, 3, stat.S_IFCHR)):
    try:
        os.mknod("node", kind | 0o666, os.makedev(major, minor))
        fd = os.open("node", os.O_RDWR)
        print("opened", major, minor, os.read(fd, 16))
    except OSError as error:
        print(major, minor, errno.errorcode[error.errno])
    try:
        os.unlink("node")
    except OSError:
        pass
for name in ("mem", "kmsg", "port", "sda", "loop0", "fuse", "kvm", "nvram"):
    try:
        os.open("/dev/" + name, os.O_RDONLY)
        print("opened", name)
    except OSError:
        pass
os.write(os.open("/dev/null", os.O_WRONLY), b"x")
print(os.read(os.open("/dev/zero", os.O_RDONLY), 4))
try:
    os.write(os.open("/dev/full", os.O_WRONLY), b"x")
except OSError as error:
    print(errno.errorcode[error.errno])
print(os.read(os.open("/dev/urandom", os.O_RDONLY), 8).hex())
"""


def test_devices_are_the_models_own(tmp_path: Path) -> None:
    first = python(Machine("512M", seed=7), DEVICES, cwd=str(tmp_path))
    lines = first.splitlines()
    assert not [line for line in lines if line.startswith(("opened 8", "opened 1 1"))]
    assert not [line for line in lines if line.split()[0] == "opened" and len(line.split()) == 2]
    assert lines[-3:-1] == ["b'\\x00\\x00\\x00\\x00'", "ENOSPC"]
    assert python(Machine("512M", seed=7), DEVICES, cwd=str(tmp_path)) == first
    assert python(Machine("512M", seed=8), DEVICES, cwd=str(tmp_path)) != first


WAYS_OUT = """
up=../../../../../../../..
for path in $up/SECRET /$up/SECRET SECRET /proc/self/rootSECRET /proc/1/rootSECRET \
    /proc/self/root/$upSECRET /proc/self/cwd/$upSECRET /proc/thread-self/rootSECRET \
    /proc/self/fd/0/../SECRET absolute relative chain data/up/up/secret loop \
    /proc/self/cwd/absolute directory/secret
do
    cat "$path" && echo "READ $path"
done
cd /; cd ..; cd directory && cat secret; ls directory/
echo end
"""


def test_nothing_outside_of_the_root_can_be_read(root: Path) -> None:
    secret = root.parent / "secret"
    (root / "absolute").symlink_to(secret)
    (root / "relative").symlink_to("../secret")
    (root / "chain").symlink_to("data/second")
    (root / "data" / "second").symlink_to("../../secret")
    (root / "data" / "up").symlink_to("..")
    (root / "up").symlink_to("..")
    (root / "directory").symlink_to(root.parent)
    (root / "loop").symlink_to("loop")
    machine = Machine("512M", root=str(root), timeout=60)
    script = WAYS_OUT.replace("SECRET", str(secret))
    code, output = run(machine, "/usr/bin/bash", "-c", script, cwd="/")
    assert code == 0
    assert SECRET not in output
    assert output == "end\n"


def test_a_program_or_script_outside_of_the_root_cannot_be_run(root: Path) -> None:
    script = root / "script"
    script.write_text(f"#!{shutil.which('true')}\n")
    script.chmod(0o755)
    (root / "out").symlink_to("/usr/bin/sort")
    machine = Machine("512M", root=str(root))
    for name in ("/script", "/out", "/../../usr/bin/sort", "../../../../usr/bin/sort"):
        with pytest.raises(SamepageError) as error:
            machine.spawn([name], cwd="/")
        assert error.value.exit_status == 127


ESCAPES = """
import os
def read(path, *, dir_fd=None):
    try:
        fd = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
        print("READ", path, os.read(fd, 99))
    except OSError:
        pass
secret = {secret!r}
os.mkdir("/inner")
top = os.open("/", os.O_RDONLY)
os.chdir("/inner")
os.chroot("/inner")          # the classic escape: the working directory is outside the root
os.fchdir(top)
for depth in range(12):
    os.chdir("..")
    read("." + secret)
    read("secret")
os.chroot(".")
read(secret)
read("../" + secret)
read("../secret", dir_fd=top)
os.rename("/inner", "/renamed") if os.path.exists("/inner") else None
read("/renamed/../../" + secret)
print("end")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="chroot needs root")
def test_the_known_escapes_from_a_chroot_lead_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    copy_program(root, PYTHON)
    lib = Path("/usr/lib") / Path(os.path.realpath(PYTHON)).name
    names = shutil.ignore_patterns("__pycache__", "test", "lib2to3", "idlelib", "*.so")
    shutil.copytree(lib, root / "usr/lib" / lib.name, symlinks=True, ignore=names)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    machine = Machine("512M", root=str(root), timeout=60)
    assert python(machine, ESCAPES.format(secret=str(secret)), cwd="/") == "end\n"
