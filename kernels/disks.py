"""What a virtual machine boots from: an initramfs and two disks.

The *initramfs* holds busybox and the modules that reach the disks. Its `init` mounts the root and
the exchange disk, and hands over to the `guest` script of the exchange disk.

The *root* is an ext4 file system with programs, made once: of the machine's own ones for the
processor it has, of unpacked packages for another one. Machines do not change it (QEMU's
`snapshot=on`).

The *exchange* disk is made for each boot. It carries the project's files, the command, and, when
the machine is down, its output and exit status, which are read with debugfs. Nothing is lost
that a serial console would have changed.
"""

import gzip
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from kernels.packages import need
from samepage.errors import SamepageError

_MIB = 1 << 20
_LARGE = 400 * _MIB
"""A directory of /usr/lib, /usr/local or /usr/share that is larger is left out of the root: a
JDK, an SDK. What the tests need is in smaller ones, and in those of the processor."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] && break; sleep 1; done
mount -t ext4 /dev/vda /root && mkdir -p /root/exchange && mount -t ext4 /dev/vdb /root/exchange
for name in proc sys dev; do mkdir -p /root/$name; mount --move /$name /root/$name; done
exec switch_root /root /exchange/busybox sh /exchange/guest
"""

_GUEST = """export PATH={path} HOME=/root LANG=C.UTF-8 TERM=dumb
box=/exchange/busybox
$box mkdir -p /dev/shm /dev/pts /run /tmp
$box mount -t tmpfs tmpfs /dev/shm; $box mount -t tmpfs tmpfs /run
$box mount -t devpts devpts /dev/pts; $box mount -t cgroup2 none /sys/fs/cgroup
$box mkdir -p {project}; $box mount --bind /exchange/project {project}
$box [ -d /samepage-venv ] && $box mount --bind /samepage-venv {project}/.venv
$box ip link set lo up
cd {project}
( $box sh /exchange/command; echo $? > /exchange/out/status ) 2>&1 \\
    | $box tee /exchange/out/output > /dev/console
cd /
$box sync; $box umount {project}/.venv {project} 2>/dev/null
$box mount -o remount,ro /exchange
$box poweroff -f
"""


def make_initramfs(target: Path, busybox: Path, modules: Sequence[tuple[str, bytes]]) -> None:
    """Write an initramfs: a cpio archive in the "newc" form, which needs no root to make."""
    with gzip.open(target, "wb", compresslevel=1) as file:
        entries = [("bin", None), ("modules", None), ("init", _INIT.encode())]
        contents = [("bin/busybox", busybox.read_bytes())]
        contents += [(f"modules/{i:02}-{name}.ko", data) for i, (name, data) in enumerate(modules)]
        for name, content in [*entries, *contents]:
            file.write(_cpio(name, content))
        file.write(_cpio("TRAILER!!!", b""))


def _cpio(name: str, content: bytes | None) -> bytes:
    mode = stat.S_IFDIR | 0o755 if content is None else stat.S_IFREG | 0o755
    data = content or b""
    encoded = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def make_root_of_this_machine(target: Path, project: Path, python: Path) -> None:
    """Write a root with the machine's own /usr and /etc, and the project's environment.

    `python` is where the environment's Python is installed (`sys.base_prefix`). The directories are
    bound into a skeleton in a mount namespace, so that nothing is copied twice.
    """
    need(["mke2fs", "unshare"], "e2fsprogs util-linux")
    skeleton = target.with_suffix(".tree")
    shutil.rmtree(skeleton, ignore_errors=True)
    for name in ("usr", "etc", "proc", "sys", "dev", "run", "tmp", "var/tmp", "root", "empty"):
        (skeleton / name).mkdir(parents=True)
    (skeleton / "tmp").chmod(0o1777)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if Path("/", name).is_symlink():
            (skeleton / name).symlink_to(os.readlink(f"/{name}"))
    binds = [("/usr", "usr"), ("/etc", "etc"), (str(project / ".venv"), "samepage-venv")]
    if not python.is_relative_to("/usr"):
        binds.append((str(python), str(python).lstrip("/")))
    lines = ["set -e"]
    for source, name in binds:
        (skeleton / name).mkdir(parents=True, exist_ok=True)
        lines.append(f"mount --bind '{source}' '{skeleton / name}'")
    for path in _left_out():
        lines.append(f"mount --bind '{skeleton}/empty' '{skeleton}{path}'")
    size = sum(_size(Path(source)) for source, _ in binds) - sum(_size(p) for p in _left_out())
    lines.append(_mke2fs(skeleton, target, size + size // 4 + 512 * _MIB))
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    _run(["unshare", "--mount", *mapped, "sh", "-c", "\n".join(lines)])
    shutil.rmtree(skeleton)


def make_root_of_directory(target: Path, directory: Path) -> None:
    """Write a root that holds what a directory does."""
    need(["mke2fs"], "e2fsprogs")
    size = _size(directory)
    _run(["sh", "-c", _mke2fs(directory, target, size + size // 4 + 512 * _MIB)])


def make_exchange(
    target: Path, project: Path, files: Iterable[str], command: str, busybox: Path
) -> None:
    """Write the exchange disk: `files` of the project, and a command for /bin/sh to run in it."""
    need(["mke2fs"], "e2fsprogs")
    tree = target.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "project" / ".venv").mkdir(parents=True)
    (tree / "out").mkdir()
    for name in files:
        copy = tree / "project" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project / name, copy, follow_symlinks=False)
    shutil.copy2(busybox, tree / "busybox")
    (tree / "command").write_text(command + "\n")
    (tree / "guest").write_text(_GUEST.format(path=_PATH, project=project))
    size = _size(tree)
    _run(["sh", "-c", _mke2fs(tree, target, 2 * size + 256 * _MIB)])
    shutil.rmtree(tree)


def read_exchange(disk: Path, target: Path) -> Path:
    """Copy what the machine left in `out` into `target`; return that directory."""
    need(["debugfs"], "e2fsprogs")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _run(["debugfs", "-R", f"rdump /out {target}", str(disk)])
    return target / "out"


def _left_out() -> list[Path]:
    parents = [Path("/usr/lib"), Path("/usr/local"), Path("/usr/share"), Path("/usr/src")]
    children = [path for parent in parents if parent.is_dir() for path in parent.iterdir()]
    return [
        path
        for path in children
        if path.is_dir() and not path.is_symlink()
        if not path.name.endswith("-linux-gnu") and _size(path) > _LARGE
    ]


def _size(directory: Path) -> int:
    """Return what the files of a directory take on a disk, in bytes."""
    done = subprocess.run(
        ["du", "-xsB1", str(directory)], capture_output=True, text=True, check=False
    )
    return int(done.stdout.split()[0]) if done.stdout else 0


def _mke2fs(tree: Path, target: Path, size: int) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return (
        f"rm -f '{target}'; PATH='{path}' mke2fs -q -t ext4 -E lazy_itable_init=1,root_owner=0:0 "
        f"-d '{tree}' '{target}' {size >> 10}k"
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise SamepageError(f"{command[0]}: {reason[-1] if reason else 'failed'}")
