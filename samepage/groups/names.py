"""The names that people gave to containers and pods, out of the files of the runtimes.

A control group shows an id. The name is in a file of the runtime, each with its own form:

- docker: `DATA-ROOT/containers/ID/config.v2.json` has `Name`, with a slash in front
  (`container.Container` in moby). The data root is /var/lib/docker unless
  /etc/docker/daemon.json has `data-root`.
- podman and CRI-O keep a list of all in `GRAPHROOT/DRIVER-containers/containers.json` (and
  `volatile-containers.json`), each with `id` and `names` (containers/storage). GRAPHROOT is
  /var/lib/containers/storage, of a user without root ~/.local/share/containers/storage.
- CRI-O's names, and those of docker under a kubelet, are `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`
  (`makeContainerName`); a pod's own container is called POD.
- containerd: `/run/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID/config.json` is the OCI
  specification, and its annotations have the names (`io.kubernetes.cri.*` of containerd's CRI
  plug-in, `nerdctl/name`).
- The kubelet: /var/log/containers has `POD_NAMESPACE_CONTAINER-ID.log`, /var/log/pods
  `NAMESPACE_POD_UID` (`BuildPodLogsDirectory`, `logSymlink`).

These functions get the content of the files; `samepage.live.container_names` reads them. What
others wrote is not trusted: whatever is not of the form that is expected has no name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LOG = re.compile(r"([^_]+)_([^_]+)_(.+)-([0-9a-f]{64})\.log\Z")
_KUBELET_NAME_PARTS = 6


class Named(NamedTuple):
    """The name of a container, and of its pod as NAMESPACE/NAME; "" if it has none."""

    name: str = ""
    pod: str = ""


def named_by_docker(config: bytes) -> Named:
    """Return what docker's `config.v2.json` calls its container."""
    return _named(_text(_object(config).get("Name")).removeprefix("/"))


def named_by_storage(containers: bytes) -> dict[str, Named]:
    """Return the names of the containers in podman's or CRI-O's `containers.json`, by id."""
    found = {}
    for entry in _list(containers):
        if isinstance(entry, dict):
            names = entry.get("names")
            first = _text(names[0]) if isinstance(names, list) and names else ""
            if first and isinstance(entry.get("id"), str):
                found[entry["id"]] = _named(first)
    return found


def named_by_specification(config: bytes) -> Named:
    """Return what the annotations of an OCI `config.json` call the container."""
    annotations = _object(config).get("annotations")
    if not isinstance(annotations, dict):
        return Named()

    def first(*keys: str) -> str:
        return next(filter(None, (_text(annotations.get(key)) for key in keys)), "")

    pod = first("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
    namespace = first("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")
    name = first("io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name")
    if not name and first("io.kubernetes.cri.container-type") == "sandbox":
        name = "POD"
    return Named(name, f"{namespace}/{pod}" if namespace and pod else pod)


def named_by_logs(names: list[str]) -> dict[str, Named]:
    """Return the names that the kubelet's /var/log/containers has, by the container's id."""
    matches = filter(None, map(_LOG.match, names))
    return {match[4]: Named(match[3], f"{match[2]}/{match[1]}") for match in matches}


def pods_by_logs(names: list[str]) -> dict[str, str]:
    """Return NAMESPACE/NAME of the pods in the kubelet's /var/log/pods, by UID."""
    parts = (name.split("_") for name in names)
    return {part[2]: f"{part[0]}/{part[1]}" for part in parts if len(part) == 3 and all(part)}


def data_root(daemon: bytes) -> str:
    """Return docker's data directory by its /etc/docker/daemon.json; empty if there is none."""
    settings = _object(daemon)
    return _text(settings.get("data-root")) or _text(settings.get("graph")) or "/var/lib/docker"


def name_in_id(container: str) -> str:
    """Return the name that is a part of "RUNTIME:ID": of LXC, machines, apps and Nomad's tasks."""
    runtime, _, number = container.partition(":")
    if runtime == "nomad":
        return number.partition(".")[2]
    return number if runtime in ("lxc", "machine", "flatpak", "snap") else ""


def _named(name: str) -> Named:
    """Return a name as given, or the parts of one that a kubelet made."""
    parts = name.split("_")
    if parts[0] == "k8s" and len(parts) == _KUBELET_NAME_PARTS:
        return Named(parts[1], f"{parts[3]}/{parts[2]}")
    return Named(name)


def _object(data: bytes) -> dict[str, object]:
    value = _json(data)
    return value if isinstance(value, dict) else {}


def _list(data: bytes) -> list[object]:
    value = _json(data)
    return value if isinstance(value, list) else []


def _json(data: bytes) -> object:
    import json  # most systems have no such file

    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
