"""Running one command on one kernel, in QEMU.

machine = Machine(kernel_of("6.12", "amd64"))
result = machine.run(".venv/bin/samepage live", timeout=600)
result.status, result.output
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kernels.disks import (
    make_exchange,
    make_initramfs,
    make_root_of_this_machine,
    read_exchange,
)
from kernels.foreign import root_of_packages
from kernels.modules import modules_for
from kernels.packages import Apt, cache_directory, need
from samepage.errors import SamepageError

PROJECT = Path(__file__).resolve().parent.parent
_DISKS = ["virtio_pci", "virtio_blk", "ext4"]
FILE_SYSTEMS = ["loop", "overlay", "squashfs", "erofs", "xfs", "btrfs"]
_QEMU = {
    "amd64": ("qemu-system-x86_64", "qemu-system-x86", ["-machine", "q35", "-cpu", "max"], "ttyS0"),
    "arm64": (
        "qemu-system-aarch64",
        "qemu-system-arm",
        ["-machine", "virt", "-cpu", "max,pauth-impdef=on"],
        "ttyAMA0",
    ),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's package, unpacked."""

    package: str
    architecture: str
    directory: Path

    @property
    def image(self) -> Path:
        """The file that QEMU boots."""
        return next((self.directory / "boot").glob("vmlinuz-*"))


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did on a kernel: `status` is None if the machine did not get to its end."""

    status: int | None
    output: str
    out: Path
    """The directory that was /exchange/out there."""


def kernel_name(version: str, architecture: str, flavour: str) -> str:
    """Return the pattern of the names of the packages with these kernels.

    `flavour` is "cloud" (drivers of virtual machines only), or "" for all drivers.
    """
    name = f"{flavour}-{architecture}" if flavour else architecture
    return rf"linux-image-{re.escape(version)}\.[^-]*(-\d+)?-{name}"


def kernel_of(version: str, architecture: str, flavour: str = "cloud") -> Kernel:
    """Return the newest kernel of a version ("6.12") that Debian offers for this release.

    Raises `SamepageError` if there is none.
    """
    apt = Apt(architecture)
    package = apt.newest(kernel_name(version, architecture, flavour))
    directory = cache_directory() / "unpacked" / package
    if not (directory / "boot").is_dir():
        apt.unpack([package], directory)
    return Kernel(package, architecture, directory)


def busybox_of(architecture: str) -> Path:
    """Return busybox, linked statically, of Debian's package for the processor."""
    directory = cache_directory() / "unpacked" / f"busybox-static-{architecture}"
    path = directory / "bin" / "busybox"
    if not path.exists():
        Apt(architecture).unpack(["busybox-static"], directory)
    return path


def project_files() -> list[str]:
    """Return the project's files as they are in the work tree, those that git does not ignore."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
    )
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    return [name for name in names if (PROJECT / name).exists()]


def root_of_this_machine() -> Path:
    """Return the root disk of this machine's programs; made at the first call.

    It is made anew when the project's environment is (`.venv/.locked`), since it holds that.
    """
    stamp = PROJECT / ".venv" / ".locked"
    if not stamp.exists():
        raise SamepageError("no environment: run `make setup` first")
    disk = cache_directory() / f"root-{str(PROJECT).strip('/').replace('/', '-')}.img"
    if not disk.exists() or disk.stat().st_mtime < stamp.stat().st_mtime:
        disk.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {disk} of this machine's programs", file=sys.stderr)
        make_root_of_this_machine(disk, PROJECT, Path(sys.base_prefix))
    return disk


def root_for(architecture: str) -> Path:
    """Return a root disk for a processor: with this machine's programs, if it is this machine's."""
    if architecture == {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine):
        return root_of_this_machine()
    return root_of_packages(architecture, PROJECT)


class Machine:
    """A virtual machine with a kernel and a root disk."""

    def __init__(
        self,
        kernel: Kernel,
        root: Path,
        *,
        cpus: int = 2,
        memory: int = 3072,
        cpu: str | None = None,
        parameters: str = "",
    ) -> None:
        """`memory` is in MiB, `cpu` what QEMU takes for -cpu, `parameters` for the kernel."""
        self.kernel, self.root = kernel, root
        program, package, machine, console = _QEMU[kernel.architecture]
        need([program], package)
        self._command = [program, *machine, "-accel", "tcg,thread=multi", "-smp", str(cpus)]
        if cpu:
            self._command += ["-cpu", cpu]
        self._command += ["-m", str(memory), "-nographic", "-no-reboot", "-nic", "none"]
        # On a busy host the kernel's check that the timer interrupt comes in time can fail.
        words = f"console={console} quiet panic=-1 no_timer_check {parameters}"
        self._command += ["-append", words.strip()]

    def run(self, command: str, timeout: float, keep: Path | None = None) -> Result:
        """Boot, run a command in the project's directory with /bin/sh, and shut down.

        The console is written to stderr as it comes. `keep` is where the results go; a temporary
        directory if it is None. Raises `SamepageError` if the kernel cannot be booted.
        """
        work = keep or Path(tempfile.mkdtemp(prefix="samepage-kernel-"))
        work.mkdir(parents=True, exist_ok=True)
        initramfs, exchange = work / "initramfs", work / "exchange.img"
        busybox = busybox_of(self.kernel.architecture)
        modules = modules_for(self.kernel.directory, [*_DISKS, *FILE_SYSTEMS])
        make_initramfs(initramfs, busybox, modules)
        make_exchange(exchange, PROJECT, project_files(), command, busybox)
        try:
            self._boot(initramfs, exchange, timeout)
            out = read_exchange(exchange, work / "results")
        finally:
            exchange.unlink(missing_ok=True)
            initramfs.unlink(missing_ok=True)
        return _result(out)

    def _boot(self, initramfs: Path, exchange: Path, timeout: float) -> None:
        drives = [
            *("-drive", f"file={self.root},format=raw,if=virtio,snapshot=on"),
            *("-drive", f"file={exchange},format=raw,if=virtio,cache=unsafe"),
        ]
        boot = ["-kernel", str(self.kernel.image), "-initrd", str(initramfs)]
        process = subprocess.Popen(
            ["nice", *self._command, *boot, *drives],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            print(f"{self.kernel.package}: no end after {timeout:.0f} s", file=sys.stderr)
        finally:
            process.kill()
            process.wait()


def _result(out: Path) -> Result:
    def text(name: str) -> str:
        path = out / name
        return path.read_text(errors="replace") if path.exists() else ""

    status = text("status").strip()
    return Result(int(status) if status.isdigit() else None, text("output"), out)
