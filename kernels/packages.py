"""Debian packages of any suite and processor, downloaded with apt and unpacked, not installed.

apt runs with a state directory of its own, so the system's lists and packages stay as they are.
The mirrors are those that the system's own sources name (`apt-get indextargets`), with
`-backports` added, which is where the newer kernel of a stable release is.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from samepage.errors import SamepageError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_HOUR = 3600


def cache_directory() -> Path:
    """Where downloads and disks are kept (some GB): `$XDG_CACHE_HOME/samepage-kernels`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "samepage-kernels"


def need(programs: Iterable[str], package: str) -> None:
    """Raise `SamepageError` if one of the programs is not there."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in programs if not shutil.which(name, path=path)]
    if missing:
        raise SamepageError(f"{', '.join(missing)}: not found; apt-get install {package}")


class Apt:
    """apt for one processor ("amd64", "arm64"), with nothing installed in its view."""

    def __init__(self, architecture: str) -> None:
        need(["apt-get", "apt-cache", "dpkg-deb"], "apt dpkg")
        self._base = cache_directory() / "apt" / architecture
        self._archives = cache_directory() / "packages" / architecture
        self._config = self._base / "apt.conf"
        self._prepare(architecture)

    def newest(self, pattern: str) -> str:
        """Return the package that a regular expression matches, the highest version of several.

        Raises `SamepageError` if none does.
        """
        found = newest_of(pattern, self._run("apt-cache", "pkgnames").split())
        if found is None:
            raise SamepageError(f"{pattern}: no such package on the system's mirrors")
        return found

    def unpack(self, packages: Iterable[str], target: Path, *, dependencies: bool = False) -> None:
        """Unpack packages into a directory, with all that they depend on if asked for."""
        need(["dpkg-deb"], "dpkg")
        target.mkdir(parents=True, exist_ok=True)
        for archive in self._download(list(packages), dependencies):
            subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)

    def _download(self, packages: list[str], dependencies: bool) -> list[Path]:
        if not dependencies:
            return [self._download_one(name) for name in packages]
        done = self._run(
            *("apt-get", "install", "--download-only", "--yes", "--no-install-recommends"),
            *("--print-uris", *packages),
        )
        wanted = [line.split()[1] for line in done.splitlines() if line.startswith("'")]
        self._run(
            *("apt-get", "install", "--download-only", "--yes", "--no-install-recommends"),
            *packages,
        )
        return [self._base / "cache" / "archives" / name for name in wanted] or [
            self._download_one(name) for name in packages
        ]

    def _download_one(self, name: str) -> Path:
        directory = self._archives / name
        if not any(directory.glob("*.deb")):
            directory.mkdir(parents=True, exist_ok=True)
            self._run("apt-get", "download", name, cwd=directory)
        return next(directory.glob("*.deb"))

    def _prepare(self, architecture: str) -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._base / name).mkdir(parents=True, exist_ok=True)
        self._archives.mkdir(parents=True, exist_ok=True)
        (self._base / "status").touch()
        (self._base / "sources.list").write_text("".join(_sources(architecture)))
        self._config.write_text(
            f'Dir::State "{self._base}/state";\n'
            f'Dir::State::status "{self._base}/status";\n'
            f'Dir::Cache "{self._base}/cache";\n'
            f'Dir::Etc::SourceList "{self._base}/sources.list";\n'
            'Dir::Etc::SourceParts "/dev/null";\n'
            'Dir::Etc::Preferences "/dev/null";\n'
            'Dir::Etc::PreferencesParts "/dev/null";\n'
            f'APT::Architecture "{architecture}";\n'
            f'APT::Architectures {{ "{architecture}"; }};\n'
            'APT::Sandbox::User "";\n'
            "Debug::NoLocking true;\n"
        )
        stamp = self._base / "updated"
        if not stamp.exists() or _age(stamp) > 24 * _HOUR:
            self._run("apt-get", "update")
            stamp.touch()

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._config), "LC_ALL": "C"}
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines()
            raise SamepageError(f"{' '.join(command[:3])}: {reason[-1] if reason else 'failed'}")
        return done.stdout


def _sources(architecture: str) -> list[str]:
    """Return the lines of a sources.list with the system's Debian mirrors and its backports."""
    done = subprocess.run(
        [
            *("apt-get", "indextargets", "--format"),
            "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)",
            *("Created-By: Packages", "Origin: Debian"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    repositories = {tuple(line.split()[:3]) for line in done.stdout.splitlines() if line.split()}
    suites = {suite for _, suite, _ in repositories}
    for uri, suite, component in sorted(repositories):
        plain = "-" not in suite
        if plain and f"{suite}-backports" not in suites:
            repositories.add((uri, f"{suite}-backports", component))
    if not repositories:
        raise SamepageError("the system's apt sources name no mirror of Debian")
    return [
        f"deb [arch={architecture} signed-by={KEYRING}] {uri} {suite} {component}\n"
        for uri, suite, component in sorted(repositories)
    ]


def newest_of(pattern: str, names: Iterable[str]) -> str | None:
    """Return the name with the highest numbers of those that match, None if none does."""
    found = [name for name in names if re.fullmatch(pattern, name)]
    return max(found, key=_numbers, default=None)


def _numbers(name: str) -> list[int]:
    digits = "".join(character if character.isdigit() else " " for character in name)
    return [int(number) for number in digits.split()]


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime
