"""Names of containers are read from where the runtimes keep them, below the root of process 1."""

import json
import os
from pathlib import Path

from samepage.groups.names import Named
from samepage.live.container_names import ContainerNames

ID = "0123456789abcdef" * 4
UID = "4d53b9fa-bc23-4b4b-bc5a-3a6f2f1d0b1e"


def put(root: Path, path: str, content: object) -> None:
    target = root / "1/root" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content if isinstance(content, str) else json.dumps(content))


def test_each_runtime(tmp_path: Path) -> None:
    put(tmp_path, "etc/docker/daemon.json", {"data-root": "/mnt/docker"})
    put(tmp_path, f"mnt/docker/containers/{ID}/config.v2.json", {"Name": "/shop-web"})
    storage = "var/lib/containers/storage/overlay-containers"
    put(tmp_path, f"{storage}/containers.json", [{"id": ID, "names": ["shop-db"]}])
    put(tmp_path, f"var/log/containers/web_prod_nginx-{ID[::-1]}.log", "")
    put(tmp_path, f"var/log/pods/prod_web_{UID}/nginx/0.log", "")
    task = f"run/containerd/io.containerd.runtime.v2.task/default/{ID}/config.json"
    put(tmp_path, task, {"annotations": {"nerdctl/name": "redis"}})
    names = ContainerNames(str(tmp_path))
    pod = f"/kubepods/pod{UID}"
    for cgroup, expected in {
        f"/system.slice/docker-{ID}.scope": Named("shop-web"),
        f"/machine.slice/libpod-{ID}.scope": Named("shop-db"),
        f"/system.slice/nerdctl-{ID}.scope": Named("redis"),
        f"{pod}/{ID[::-1]}": Named("nginx", "prod/web"),
        pod: Named("", "prod/web"),
        f"/kubepods/pod{UID[::-1].replace('-', '0')[:32]}": Named(
            "", UID[::-1].replace("-", "0")[:32]
        ),
        "/lxc.payload.mail": Named("mail"),
        f"/docker/{ID[::-1]}": Named(),
        "/system.slice/cron.service": Named(),
    }.items():
        assert names.of(cgroup) == expected, cgroup


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    storage = tmp_path / "1/root/var/lib/containers/storage/overlay-containers"
    storage.mkdir(parents=True)
    os.mkfifo(storage / "containers.json")
    (storage / "volatile-containers.json").symlink_to("/dev/zero")
    assert ContainerNames(str(tmp_path)).of(f"/libpod_parent/libpod-{ID}") == Named()
