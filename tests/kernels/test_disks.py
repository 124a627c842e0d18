"""What a virtual machine boots from is what its kernel expects."""

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from kernels.boot import kernel_name, project_files
from kernels.disks import make_exchange, make_initramfs, read_exchange
from kernels.modules import modules_for
from kernels.packages import newest_of


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_an_initramfs_is_what_cpio_reads(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"\x7fELF of busybox")
    modules = [("virtio", b"one"), ("virtio_blk", b"three")]
    make_initramfs(tmp_path / "initramfs", tmp_path / "busybox", modules)
    archive = gzip.decompress((tmp_path / "initramfs").read_bytes())
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["cpio", "-i", "--quiet"], input=archive, cwd=tree, check=True)
    assert (tree / "bin" / "busybox").read_bytes() == b"\x7fELF of busybox"
    assert (tree / "modules" / "01-virtio_blk.ko").read_bytes() == b"three"
    assert (tree / "init").stat().st_mode & 0o777 == 0o755


def test_modules_come_after_those_they_depend_on(tmp_path: Path) -> None:
    def module(name: str, depends: str) -> None:
        path = tmp_path / "kernel" / f"{name}.ko"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")

    module("virtio", "")
    module("virtio-ring", "virtio")
    module("virtio_pci", "virtio,virtio_ring")
    found = [name for name, _ in modules_for(tmp_path, ["virtio_pci", "ext4"])]
    assert found == ["virtio", "virtio_ring", "virtio_pci"]


@pytest.mark.skipif(
    shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin") is None, reason="needs e2fsprogs"
)
def test_an_exchange_disk_carries_files_in_and_results_out(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "file").write_text("content")
    (tmp_path / "busybox").write_bytes(b"")
    disk = tmp_path / "disk"
    make_exchange(disk, tmp_path / "project", ["file"], "true", tmp_path / "busybox")
    assert list(read_exchange(disk, tmp_path / "results").iterdir()) == []
    dump = subprocess.run(
        ["debugfs", "-R", "cat /project/file", str(disk)], capture_output=True, check=True
    )
    assert dump.stdout == b"content"


def test_the_project_is_carried_without_what_git_ignores() -> None:
    names = project_files()
    assert "samepage/live/ksm.py" in names
    assert not [name for name in names if name.startswith(".venv/")]


def test_the_newest_of_several_kernels_is_taken() -> None:
    names = [
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-57-cloud-amd64",
        "linux-image-6.1.0-57-cloud-amd64-dbg",
        "linux-image-6.1.0-58-amd64",
        "linux-image-6.12.9+deb12-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
    ]
    assert newest_of(kernel_name("6.1", "amd64", "cloud"), names) == names[1]
    assert newest_of(kernel_name("6.12", "amd64", "cloud"), names) == names[5]
    assert newest_of(kernel_name("6.1", "amd64", ""), names) == names[3]
    assert newest_of(kernel_name("5.10", "amd64", "cloud"), names) is None
