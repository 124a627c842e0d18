"""A root for a processor that this machine does not have: Debian's packages and Python's wheels.

Packages are unpacked, not configured, since their scripts could not run here. What those would
have made and a program needs is made by hand: the links of a merged /usr, and a user `root`. The
linker's cache is not there; ld.so finds libraries in its default directories.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from kernels.disks import make_root_of_directory
from kernels.packages import Apt, cache_directory
from samepage.errors import SamepageError

PACKAGES = (
    *("bash", "coreutils", "findutils", "gawk", "grep", "sed", "tar", "gzip", "make"),
    *("git", "python3.11", "python3-minimal", "util-linux", "procps", "gcc", "libc6-dev"),
)
_WHEELS = {"arm64": [f"manylinux{name}_aarch64" for name in ("2014", "_2_17", "_2_24", "_2_28")]}
_DIRECTORIES = ("etc", "exchange", "proc", "root", "run", "samepage-venv", "sys", "tmp", "dev")


def root_of_packages(architecture: str, project: Path) -> Path:
    """Return the root disk for another processor, made anew when the lock of packages changes.

    Raises `SamepageError` if packages or wheels cannot be had.
    """
    disk = cache_directory() / f"root-{architecture}.img"
    lock = project / "requirements.lock"
    tree = cache_directory() / "trees" / architecture
    if not (tree / "etc" / "passwd").exists():
        print(f"unpacking programs for {architecture}", file=sys.stderr)
        _unpack(architecture, tree)
    copy = tree / "samepage-venv" / "requirements.lock"
    if not disk.exists() or not copy.exists() or copy.read_bytes() != lock.read_bytes():
        _environment(architecture, tree / "samepage-venv", project)
        shutil.copy2(lock, copy)
        make_root_of_directory(disk, tree)
    return disk


def _unpack(architecture: str, tree: Path) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    for name in _DIRECTORIES:
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    for name in ("bin", "sbin", "lib"):
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    Apt(architecture).unpack(PACKAGES, tree, dependencies=True)
    for link in ("usr/bin/awk", "usr/bin/sh"):
        (tree / link).unlink(missing_ok=True)
    (tree / "usr/bin/awk").symlink_to("gawk")
    (tree / "usr/bin/sh").symlink_to("bash")
    (tree / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (tree / "etc" / "group").write_text("root:x:0:\n")


def _environment(architecture: str, target: Path, project: Path) -> None:
    """Make what `make setup` makes, without a Python that runs there."""
    shutil.rmtree(target, ignore_errors=True)
    packages = target / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (target / "bin").mkdir()
    platforms = [word for name in _WHEELS[architecture] for word in ("--platform", name)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
            *("--disable-pip-version-check", "--only-binary=:all:", "--python-version", "3.11"),
            *("--implementation", "cp", "--target", str(packages), *platforms),
            *("--require-hashes", "-r", str(project / "requirements.lock")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise SamepageError(f"wheels for {architecture}: {lines[-1] if lines else 'failed'}")
    (packages / "samepage.pth").write_text(f"{project}\n")
    (target / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n"
    )
    for name in ("python", "python3"):
        (target / "bin" / name).symlink_to("/usr/bin/python3.11")
    script = target / "bin" / "samepage"
    script.write_text(
        f"#!{project}/.venv/bin/python\n"
        "import sys\nfrom samepage.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
