"""Images for tests: archives by hand where no tool would write them, else by Debian's tools."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from samepage.images.layer import Layer
from samepage.images.store import Store
from samepage.images.tar_layer import read_tar_layer


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """One entry of an archive; `fields` are attributes of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """The bytes of an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def directory(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=0o755)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def read(data: bytes, diff_id: str | None = None) -> Layer:
    """A layer from the bytes of its archive; nothing is kept."""
    layer = Layer("test")
    with Store() as store:
        read_tar_layer(io.BytesIO(data), layer, store, lambda path, start: False, diff_id)
    return layer


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_layout(place: Path, *layers: bytes, compressed: list[bytes] | None = None) -> Path:
    """An OCI layout with one image of these layers; what is stored may be `compressed`."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes) -> dict[str, object]:
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"digest": digest(data), "size": len(data), "mediaType": "x"}

    config = add(
        json.dumps(
            {
                "architecture": "amd64",
                "config": {"Cmd": ["/bin/true"]},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
                "history": [{"created_by": f"step {n}"} for n, _ in enumerate(layers)],
            }
        ).encode()
    )
    manifest = add(
        json.dumps({"config": config, "layers": [add(x) for x in compressed or layers]}).encode()
    )
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return place


def tool(name: str) -> str:
    """A program of Debian that makes images; the test is skipped without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def umoci_image(place: Path, roots: list[Path], tag: str = "app") -> str:
    """An OCI layout made by umoci, with one layer for what each root adds."""
    umoci = tool("umoci")
    layout, rootless = place / "layout", ["--rootless"]

    def run(*words: str) -> None:
        subprocess.run([umoci, *words], check=True, capture_output=True, timeout=120)

    if not layout.exists():
        run("init", "--layout", str(layout))
    run("new", "--image", f"{layout}:{tag}")
    for number, root in enumerate(roots):
        bundle = place / f"bundle-{tag}-{number}"
        run("unpack", *rootless, "--image", f"{layout}:{tag}", str(bundle))
        shutil.copytree(root, bundle / "rootfs", symlinks=True, dirs_exist_ok=True)
        run("repack", "--image", f"{layout}:{tag}", str(bundle))
    return f"{layout}:{tag}"
