"""Names of containers out of files of the runtimes, in the form that the runtimes write."""

import json

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

ID = "0123456789abcdef" * 4
UID = "4d53b9fa-bc23-4b4b-bc5a-3a6f2f1d0b1e"


def test_docker() -> None:
    config = {"StreamConfig": {}, "ID": ID, "Name": "/shop-web-1", "Driver": "overlay2"}
    assert named_by_docker(json.dumps(config).encode()) == Named("shop-web-1")
    config["Name"] = f"/k8s_web_shop-7d_prod_{UID}_0"
    assert named_by_docker(json.dumps(config).encode()) == Named("web", "prod/shop-7d")
    for nothing in (b"", b"{", b"[]", b'{"Name": 7}', b"\xff", b"[" * 100000):
        assert named_by_docker(nothing) == Named()


def test_the_data_root_of_docker() -> None:
    assert data_root(b"") == "/var/lib/docker"
    assert data_root(b'{"data-root": "/mnt/docker"}') == "/mnt/docker"


def test_podman_and_crio() -> None:
    entries = [
        {"id": ID, "names": ["shop-db"], "image": "a", "layer": "b", "metadata": "{}"},
        {"id": ID[::-1], "names": [f"k8s_db_shop-0_prod_{UID}_2"]},
        {"id": "0", "names": []},
        {"names": ["x"]},
        7,
    ]
    assert named_by_storage(json.dumps(entries).encode()) == {
        ID: Named("shop-db"),
        ID[::-1]: Named("db", "prod/shop-0"),
    }
    assert named_by_storage(b"{}") == {}


def test_containerd() -> None:
    annotations = {
        "io.kubernetes.cri.container-name": "web",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-name": "shop-7d",
        "io.kubernetes.cri.sandbox-namespace": "prod",
    }
    config = json.dumps({"ociVersion": "1.1.0", "annotations": annotations}).encode()
    assert named_by_specification(config) == Named("web", "prod/shop-7d")
    del annotations["io.kubernetes.cri.container-name"]
    annotations["io.kubernetes.cri.container-type"] = "sandbox"
    config = json.dumps({"annotations": annotations}).encode()
    assert named_by_specification(config) == Named("POD", "prod/shop-7d")
    assert named_by_specification(b'{"annotations": {"nerdctl/name": "redis"}}') == Named("redis")
    assert named_by_specification(b'{"annotations": null}') == Named()


def test_the_logs_of_a_kubelet() -> None:
    names = [f"shop-7d_prod_web-{ID}.log", "other", "a_b-c.log"]
    assert named_by_logs(names) == {ID: Named("web", "prod/shop-7d")}
    assert pods_by_logs([f"prod_shop-7d_{UID}", "x", "a__b"]) == {UID: "prod/shop-7d"}


def test_names_that_are_ids() -> None:
    assert name_in_id("lxc:web") == "web"
    assert name_in_id(f"nomad:{UID}.web") == "web"
    assert name_in_id(f"docker:{ID}") == ""
