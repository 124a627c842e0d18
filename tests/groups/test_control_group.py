"""What paths of control groups show; each path is an example of the runtime's own documents."""

import pytest

from samepage.groups.control_group import (
    find_container,
    find_pod,
    is_within,
    short_container,
    unit,
    units,
)

ID = "0123456789abcdef" * 4
UID = "4d53b9fa-bc23-4b4b-bc5a-3a6f2f1d0b1e"
UID_ = UID.replace("-", "_")
TASK = "e95a40efbde84cbc8600660a109ec194"
ALLOCATION = "6c5fcf3f-1a9a-b6ee-21d1-3f4b58a71d5e"
USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("path", "container"),
    [
        # docs.docker.com/engine/containers/runmetrics: "Cgroups driver"
        (f"/system.slice/docker-{ID}.scope", f"docker:{ID}"),
        (f"/docker/{ID}", f"docker:{ID}"),
        (f"/docker/{ID}/init.scope", f"docker:{ID}"),
        (f"{USER}/user.slice/docker-{ID}.scope", f"docker:{ID}"),
        # podman-run(1), --cgroup-parent and --cgroups
        (f"/machine.slice/libpod-{ID}.scope/container", f"podman:{ID}"),
        (f"/libpod_parent/libpod-{ID}", f"podman:{ID}"),
        (f"{USER}/user.slice/libpod-{ID}.scope/container", f"podman:{ID}"),
        (f"/machine.slice/libpod-conmon-{ID}.scope", ""),
        # kubernetes.io/docs/concepts/architecture/cgroups, and the kubelet's cgroup manager
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope", f"containerd:{ID}"),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope", f"crio:{ID}"),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container", f"crio:{ID}"),
        (f"/kubepods/burstable/pod{UID}/crio-{ID}", f"crio:{ID}"),
        (f"/kubepods/burstable/pod{UID}/{ID}", f"kubernetes:{ID}"),
        (
            f"/system.slice/containerd.service/kubepods-pod{UID_}.slice:cri-containerd:{ID}",
            f"containerd:{ID}",
        ),
        # containerd and nerdctl: docs/cgroup-v2
        (f"/system.slice/nerdctl-{ID}.scope", f"containerd:{ID}"),
        (f"/default/{ID}", f"containerd:{ID}"),
        # lxc.container.conf(5), lxc.cgroup.dir.container
        ("/lxc.payload.web/system.slice/cron.service", "lxc:web"),
        ("/lxc/web", "lxc:web"),
        ("/lxc.monitor.web", ""),
        # systemd-nspawn(1), systemd-machined
        ("/machine.slice/machine-debian.scope/payload", "machine:debian"),
        ("/machine.slice/systemd-nspawn@web.service/payload", "machine:web"),
        # flatpak: common/flatpak-run.c; systemd.io/DESKTOP_ENVIRONMENTS
        (f"{USER}/app.slice/app-flatpak-org.gnome.Maps-4711.scope", "flatpak:org.gnome.Maps"),
        (f"{USER}/app.slice/app-flatpak-org.a\\x2db.C-12.scope", "flatpak:org.a-b.C"),
        (
            f"{USER}/app.slice/app-flatpak-org.telegram.desktop@12345.service",
            "flatpak:org.telegram.desktop",
        ),
        # snapd: sandbox/cgroup/scanning.go
        ("/system.slice/snap.lxd.daemon.service", "snap:lxd"),
        (f"{USER}/app.slice/snap.firefox.firefox-{UID}.scope", "snap:firefox"),
        (f"{USER}/snap.hello.hook.configure-{UID}.scope", "snap:hello"),
        (f"{USER}/snap.firefox.firefox.{UID}.scope", "snap:firefox"),
        ("/system.slice/snapd.service", ""),
        # Nomad: client/lib/cgroupslib/editor.go
        (f"/nomad.slice/share.slice/{ALLOCATION}.web.scope", f"nomad:{ALLOCATION}.web"),
        (f"/nomad.slice/reserve.slice/{ALLOCATION}.a-b.c.scope", f"nomad:{ALLOCATION}.a-b.c"),
        (f"/nomad/{ALLOCATION}.web", f"nomad:{ALLOCATION}.web"),
        (f"/nomad.slice/share.slice/docker-{ID}.scope", f"docker:{ID}"),
        # Amazon ECS: agent/taskresource/cgroup, agent/config
        (f"/ecs/{TASK}/{ID}", f"docker:{ID}"),
        (f"/ecs/{TASK}/{TASK}-2167483647", f"ecs:{TASK}-2167483647"),
        (f"/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope", f"docker:{ID}"),
        # none
        ("/user.slice/user-0.slice/session-1.scope", ""),
        ("/system.slice/docker.service", ""),
        (f"{USER}/app.slice/app-org.gnome.Evince-12345.scope", ""),
        ("/", ""),
    ],
)
def test_containers(path: str, container: str) -> None:
    assert find_container(path) == container


@pytest.mark.parametrize(
    ("path", "pod"),
    [
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope", UID),
        (
            "/kubepods.slice/kubepods-besteffort.slice/"
            f"kubepods-besteffort-pod{UID_}.slice/crio-{ID}.scope",
            UID,
        ),
        (f"/kubepods/burstable/pod{UID}/{ID}", UID),
        (f"/kubepods/pod{UID}", UID),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice", UID),
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}",
            UID,
        ),
        # a static pod: the UID is the hash of its manifest
        (f"/kubepods/burstable/pod{TASK}/{ID}", TASK),
        (f"/machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope/container", ID),
        (f"/ecs/{TASK}/{ID}", TASK),
        (f"/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope", TASK),
        (f"/machine.slice/libpod-{ID}.scope", ""),
        ("/system.slice/podman.service", ""),
    ],
)
def test_pods(path: str, pod: str) -> None:
    assert find_pod(path) == pod


@pytest.mark.parametrize(
    ("path", "innermost"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-postgresql.slice/postgresql@16-main.service", None),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        (f"{USER}/app.slice/shop.service/worker", "shop.service"),
        (f"{USER}/init.scope", "init.scope"),
        (f"/system.slice/docker-{ID}.scope/system.slice/cron.service", "cron.service"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/system.slice", ""),
        (f"/docker/{ID}", ""),
    ],
)
def test_units(path: str, innermost: str | None) -> None:
    assert unit(path) == (path.rpartition("/")[2] if innermost is None else innermost)


def test_all_units_from_the_outermost_one() -> None:
    assert units(f"{USER}/app.slice/shop.service") == (
        *("user.slice", "user-1000.slice", "user@1000.service", "app.slice", "shop.service"),
    )


def test_a_group_is_within_itself_and_those_above() -> None:
    assert is_within("/a/b", "/a")
    assert is_within("/a", "/a")
    assert is_within("/a", "/")
    assert not is_within("/ab", "/a")
    assert not is_within("/", "/a")


def test_short_ids() -> None:
    assert short_container(f"docker:{ID}") == "docker:0123456789ab"
    assert short_container("lxc:web") == "lxc:web"
    assert short_container("") == ""
