"""Reading the names of containers and pods where the runtimes keep them.

`samepage.groups.names` describes the files. They are read below the root of process 1, so that
samepage finds those of the host from inside of a container that shares the host's pids. Most
may be read by root only. What cannot be read has no name, and is no error. Some lie in the
directories of users, who may have put anything there: only regular files are read, up to a limit.
"""

from __future__ import annotations

import os
import re
import stat

from samepage.groups.control_group import find_container, find_pod
from samepage.groups.names import (
    Named,
    data_root,
    name_in_id,
    named_by_docker,
    named_by_logs,
    named_by_specification,
    named_by_storage,
    pods_by_logs,
)

_LARGEST = 1 << 24
_TASKS = "run/containerd/io.containerd.runtime.v2.task"
_STORAGE = "var/lib/containers/storage"
_USER_STORAGE = ".local/share/containers/storage"
_USER = re.compile(r"/user-([0-9]+)\.slice/")


class ContainerNames:
    """Names by control group; each file is read once, when it is first needed."""

    def __init__(self, proc: str = "/proc") -> None:
        self._root = _root_of(proc)
        self._docker_root: str | None = None
        self._storages: dict[str, dict[str, Named]] = {}
        self._logs: dict[str, Named] | None = None
        self._pods: dict[str, str] | None = None
        self._known: dict[tuple[str, str], Named] = {}

    def of(self, cgroup: str) -> Named:
        """Return what the container and the pod of a control group are called.

        A pod without a name is called by its id.
        """
        container, pod = find_container(cgroup), find_pod(cgroup)
        if not container and not pod:
            return Named()
        key = (container, pod)
        if key not in self._known:
            self._known[key] = self._find(container, pod, cgroup)
        return self._known[key]

    def _find(self, container: str, pod: str, cgroup: str) -> Named:
        name = name_in_id(container)
        found = Named(name) if name else self._ask(container)
        if not found.name and not found.pod and container.startswith("podman:"):
            found = self._of_user(container, cgroup)
        return Named(found.name, found.pod or (self._pod(pod) if pod else "") or pod)

    def _ask(self, container: str) -> Named:
        runtime, _, number = container.partition(":")
        ways = {
            "docker": (self._by_docker,),
            "podman": (self._by_storage,),
            "crio": (self._by_storage, self._by_logs),
            "containerd": (self._by_containerd, self._by_logs),
            "kubernetes": (
                *(self._by_logs, self._by_containerd, self._by_storage, self._by_docker),
            ),
        }
        for way in ways.get(runtime, ()):
            named = way(number)
            if named.name or named.pod:
                return named
        return Named()

    def _by_docker(self, number: str) -> Named:
        if self._docker_root is None:
            self._docker_root = data_root(self._read("etc/docker/daemon.json")).strip("/")
        return named_by_docker(
            self._read(f"{self._docker_root}/containers/{number}/config.v2.json")
        )

    def _by_storage(self, number: str) -> Named:
        return self._storage(_STORAGE).get(number, Named())

    def _of_user(self, container: str, cgroup: str) -> Named:
        user = _USER.search(cgroup)
        if user is None:
            return Named()
        import pwd

        try:
            home = pwd.getpwuid(int(user[1])).pw_dir
        except (KeyError, OverflowError):
            return Named()
        storage = self._storage(f"{home.strip('/')}/{_USER_STORAGE}")
        return storage.get(container.partition(":")[2], Named())

    def _storage(self, directory: str) -> dict[str, Named]:
        if directory not in self._storages:
            found: dict[str, Named] = {}
            for name in self._list(directory):
                if name.endswith("-containers"):  # overlay-containers, vfs-containers, ...
                    for file in ("containers.json", "volatile-containers.json"):
                        found |= named_by_storage(self._read(f"{directory}/{name}/{file}"))
            self._storages[directory] = found
        return self._storages[directory]

    def _by_containerd(self, number: str) -> Named:
        for namespace in self._list(_TASKS):
            config = self._read(f"{_TASKS}/{namespace}/{number}/config.json")
            if config:
                return named_by_specification(config)
        return Named()

    def _by_logs(self, number: str) -> Named:
        if self._logs is None:
            self._logs = named_by_logs(self._list("var/log/containers"))
        return self._logs.get(number, Named())

    def _pod(self, number: str) -> str:
        if self._pods is None:
            self._pods = pods_by_logs(self._list("var/log/pods"))
        return self._pods.get(number, "")

    def _read(self, path: str) -> bytes:
        return b"" if self._root is None else _content(f"{self._root}/{path}")

    def _list(self, path: str) -> list[str]:
        try:
            return [] if self._root is None else sorted(os.listdir(f"{self._root}/{path}"))
        except OSError:
            return []


def _root_of(proc: str) -> str | None:
    """Return the root of process 1, without the slash; None where there is none to look into."""
    root = f"{proc}/1/root"
    if os.access(f"{root}/", os.R_OK):
        return root
    return "" if proc == "/proc" else None


def _content(path: str) -> bytes:
    """Return a regular file, empty if it is none, is too large or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return b""
    with open(fd, "rb") as file:
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                return b""
            return file.read(_LARGEST)
        except OSError:
            return b""
