r"""What the path of a control group shows: systemd's units, pods, containers.

The kernel knows control groups, and no containers. Who makes a control group names it, and the
names follow rules that the makers document:

- systemd: the control group of a unit has the unit's name, and lies in those of its slices;
  a manager of a user, or in a container, has its units below its own one
  (https://systemd.io/CONTROL_GROUP_INTERFACE). A name that could be a file of the kernel gets `_`
  in front (`cg_escape`), and characters that a unit's name cannot have are `\xNN`.
- Desktop programs: `app-LAUNCHER-ID-NUMBER.scope` (https://systemd.io/DESKTOP_ENVIRONMENTS);
  flatpak's launcher is `flatpak` (`flatpak_run_in_transient_unit`).
- snap: `snap.NAME.APP.service`, `snap.NAME.APP-UUID.scope`, formerly `snap.NAME.APP.UUID.scope`
  (`securityTagFromCgroupPath` in snapd's sandbox/cgroup).
- Kubernetes: `kubepods[/QOS]/podUID` or `kubepods[-QOS]-podUID.slice`, where the driver is systemd
  with `_` for `-` in the UID (`cgroup_manager_linux.go` of the kubelet).
- Nomad: `nomad.slice/{share,reserve}.slice/ALLOCATION.TASK.scope`, with cgroup v1
  `nomad/ALLOCATION.TASK` (client/lib/cgroupslib/editor.go).
- Amazon ECS: `ecs/TASK/CONTAINER`, with cgroup v2 `ecstasks.slice/ecstasks-TASK.slice/docker-ID`
  (agent/taskresource/cgroup).
"""

from __future__ import annotations

import functools
import re

_HINTS = (
    *("docker", "libpod", "cri", "kubepods", "nerdctl", "lxc", "machine", "nspawn"),
    *("/default/", "/k8s.io/", "/moby/", "flatpak", "/snap.", "nomad", "/ecs"),
)
"""A control group without any of these words is no container's; most hosts have no other."""

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

_CONTAINERS = (
    # docker, podman, containerd (CRI, nerdctl) and CRI-O under systemd: RUNTIME-ID.scope
    (r"(docker|libpod|cri-containerd|nerdctl|crio)-([0-9a-f]{64})\.scope", None),
    # containerd with cgroupfs as the driver under a kubelet with systemd: POD.slice:RUNTIME:ID
    (r":(cri-containerd|crio):([0-9a-f]{64})(?:/|$)", None),
    # the same with cgroupfs as the driver, and libpod's with cgroups v1
    (r"/(docker|libpod_parent/libpod|libpod|crio)[/-]([0-9a-f]{64})(?:/|$)", None),
    (r"/(kubepods)\b.*/([0-9a-f]{64})(?:/|$)", None),
    # containers of ECS are docker's, but on Fargate: TASK-NUMBER
    (r"/(ecs)/[^/]+/([0-9a-f]{64})(?:/|$)", "docker"),
    (r"/(ecs)/[^/]+/([0-9a-f]{32}-[0-9]+)(?:/|$)", "ecs"),
    (rf"/(nomad)(?:\.slice/\w+\.slice)?/({_UUID}\.[^/]+?)(?:\.scope)?(?:/|$)", "nomad"),
    (r"/(lxc)(?:\.payload\.|/)([^/]+)", None),
    # containerd's own clients with cgroupfs: its namespace, then the id
    (r"/(default|k8s\.io|moby)/([0-9a-f]{64})(?:/|$)", "containerd"),
    # what registers itself with systemd-machined, and systemd-nspawn as a service
    (r"/(machine)-([^/]+)\.scope", "machine"),
    (r"/(systemd-nspawn)@([^/]+)\.service", "machine"),
    (r"/app-(flatpak)-([^/@]+?)(?:-[0-9]+\.scope|(?:@[^/]*)?\.service)(?:/|$)", None),
    (r"/(snap)\.([^./]+)\.[^/]+\.(?:service|scope)(?:/|$)", None),
)
_RUNTIMES = {
    "libpod": "podman",
    "libpod_parent/libpod": "podman",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "kubepods": "kubernetes",
}
_KUBERNETES_POD = re.compile(
    r"[/-]pod([0-9a-f]{8}[-_][0-9a-f_-]{27}|[0-9a-f]{32})(?:\.slice|[/:]|$)"
)
_PODMAN_POD = re.compile(r"/(?:machine-)?libpod_pod_([0-9a-f]{64})(?:\.slice|/|$)")
_ECS_TASK = re.compile(r"/(?:ecs/|ecstasks-)([0-9a-f]{32}|[0-9a-f-]{36})(?:\.slice|/|$)")
_UNIT_TYPES = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
"""The types of units that have processes (`unit_vtable` in systemd: those with a cgroup)."""
_ESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})")
_SHORT_ID = 12
"""So many digits of an id do docker, podman and crictl print."""
_LONG_ID = re.compile(r"[0-9a-f]{64}\Z")


@functools.lru_cache(maxsize=4096)
def find_container(path: str) -> str:
    """Return "RUNTIME:ID" for a control group of a container that is known, else ""."""
    if not any(hint in path for hint in _HINTS):
        return ""
    for pattern, runtime in _CONTAINERS:
        match = re.search(pattern, path)
        if match:
            name = runtime or _RUNTIMES.get(match[1], match[1])
            return f"{name}:{unescaped(match[2])}"
    return ""


@functools.lru_cache(maxsize=4096)
def container_path(path: str) -> str:
    """Return the control group of the container that a group is in: itself, or one above.

    "" if it is in none. A container with systemd has many groups below its own one.
    """
    if not any(hint in path for hint in _HINTS):
        return ""
    for pattern, _ in _CONTAINERS:
        match = re.search(pattern, path)
        if match:
            end = path.find("/", match.end(2))
            return path if end < 0 else path[:end]
    return ""


@functools.lru_cache(maxsize=4096)
def find_pod(path: str) -> str:
    """Return the id of a pod: of Kubernetes its UID, of podman, of ECS its task's; else ""."""
    if "pod" not in path and "/ecs" not in path:
        return ""
    match = _KUBERNETES_POD.search(path)
    if match:
        return match[1].replace("_", "-")
    match = _PODMAN_POD.search(path) or _ECS_TASK.search(path)
    return match[1] if match else ""


@functools.lru_cache(maxsize=4096)
def pod_path(path: str) -> str:
    """Return the control group of the pod that a group is in, "" if it has none of its own."""
    if "pod" not in path and "/ecs" not in path:
        return ""
    match = _KUBERNETES_POD.search(path) or _PODMAN_POD.search(path) or _ECS_TASK.search(path)
    if match is None or match[0].endswith(":"):
        return ""
    return path[: match.end()].rstrip("/")


def unit_path(path: str) -> str:
    """Return the control group of the unit that `unit` returns, "" for none."""
    parts = path.split("/")
    while parts and (not parts[-1].endswith(_UNIT_TYPES) or parts[-1].endswith(".slice")):
        del parts[-1]
    return "/".join(parts)


@functools.lru_cache(maxsize=4096)
def units(path: str) -> tuple[str, ...]:
    """Return the units of systemd that a control group belongs to, from the outermost one.

    A slice is one too.
    """
    names = (part.removeprefix("_") for part in path.split("/"))
    return tuple(name for name in names if name.endswith(_UNIT_TYPES))


def unit(path: str) -> str:
    """Return the innermost unit that is no slice, "" for none.

    >>> unit("/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service/worker")
    'shop.service'
    """
    return next((name for name in reversed(units(path)) if not name.endswith(".slice")), "")


def short_container(container: str) -> str:
    """Return "RUNTIME:ID" with an id of 64 digits cut to as many as the runtimes print."""
    runtime, colon, number = container.partition(":")
    return f"{runtime}{colon}{number[:_SHORT_ID]}" if _LONG_ID.match(number) else container


def is_within(path: str, group: str) -> bool:
    """Whether a control group is `group` or lies below it; both are paths as the kernel has them.

    >>> is_within("/a/b", "/a"), is_within("/ab", "/a"), is_within("/a", "/")
    (True, False, True)
    """
    return path == group or path.startswith(group.rstrip("/") + "/")


def unescaped(name: str) -> str:
    r"""Return a part of a unit's name without systemd's escapes (`unit_name_unescape`).

    >>> unescaped(r"org.gnome\x2dBuilder")
    'org.gnome-Builder'
    """
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)
