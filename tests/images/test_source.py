"""Every form of one image gives the same tree; what is no image is refused in one line."""

import gzip
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from samepage.images.image import Image
from samepage.images.limits import ImageError
from samepage.images.source import read_image
from samepage.images.store import Store
from samepage.images.user import user_of
from tests.images.archives import digest, member, tar, tool, umoci_image, write_layout


def contents(image: Image) -> dict[str, object]:
    return {
        node.path: (node.entry.mode, node.entry.target, content and content.digest)
        for node in image.tree.walk()
        for content in [node.entry.content]
    }


def load(argument: str) -> Image:
    with Store() as store:
        image = read_image(argument, store, lambda path, start: True)
        contents(image)
        return image


def make_roots(place: Path) -> list[Path]:
    lower, upper = place / "lower", place / "upper"
    (lower / "etc").mkdir(parents=True)
    (lower / "etc/one").write_text("1")
    (lower / "etc/two").write_text("2")
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/two").write_text("changed")
    (upper / "etc/link").symlink_to("/etc/one")
    (upper / "run.sh").write_text("#!/bin/sh\n")
    (upper / "run.sh").chmod(0o755)
    return [lower, upper]


def test_all_forms_of_an_image_have_the_same_files(tmp_path: Path) -> None:
    name = umoci_image(tmp_path, make_roots(tmp_path))
    expected = contents(load(name))
    assert expected["/etc/link"] == (0o120777, "/etc/one", None)
    skopeo = tool("skopeo")
    for target, options in (
        ("docker-archive:{}/saved.tar:app:latest", []),
        ("oci-archive:{}/oci.tar:app", ["--dest-compress-format", "zstd"]),
        ("dir:{}/unused", []),
    ):
        words = [skopeo, "--insecure-policy", "copy", *options, f"oci:{name}"]
        subprocess.run(
            [*words, target.format(tmp_path)], check=True, capture_output=True, timeout=120
        )
    assert contents(load(f"{tmp_path}/saved.tar")) == expected
    assert contents(load(f"{tmp_path}/saved.tar:app:latest")) == expected
    assert contents(load(f"{tmp_path}/oci.tar")) == expected
    with tarfile.open(tmp_path / "saved.tar") as archive:
        archive.extractall(tmp_path / "saved", filter="data")
    assert contents(load(f"{tmp_path}/saved")) == expected
    bundle = tmp_path / "whole"
    subprocess.run(
        [tool("umoci"), "unpack", "--rootless", "--image", name, str(bundle)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert contents(load(f"{bundle}/rootfs")) == expected
    subprocess.run(
        ["tar", "-C", f"{bundle}/rootfs", "-cf", f"{tmp_path}/root.tar", "."], check=True
    )
    assert contents(load(f"{tmp_path}/root.tar")) == expected


def test_layers_name_their_steps_and_chains(tmp_path: Path) -> None:
    first, second = tar(member("a", b"1")), tar(member("b", b"2"))
    image = load(str(write_layout(tmp_path / "x", first, second)))
    assert [layer.created_by for layer in image.layers] == ["step 0", "step 1"]
    assert image.layers[0].chain_id == digest(first)
    chained = f"{digest(first)} {digest(second)}".encode()
    assert image.layers[1].chain_id == digest(chained)


def test_an_image_of_overlay_storage_is_read_with_its_lower_layers(tmp_path: Path) -> None:
    storage = tmp_path / "overlay2"
    (storage / "l").mkdir(parents=True)
    for number, name in enumerate(("base", "top")):
        (storage / name / "diff").mkdir(parents=True)
        (storage / name / "link").write_text(f"S{number}")
        (storage / "l" / f"S{number}").symlink_to(f"../{name}/diff")
        (storage / name / "diff" / name).write_text(name)
    (storage / "top" / "lower").write_text("l/S0")
    image = load(str(storage / "top"))
    assert sorted(contents(image)) == ["/base", "/top"]
    (storage / "top" / "lower").write_text("../../../../etc")
    with pytest.raises(ImageError, match="leads out"):
        load(str(storage / "top"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"manifests": []}, "has no image"),
        ({"manifests": [{"digest": "sha256:../../../etc/passwd"}]}, "is no digest"),
        ({"manifests": [{"digest": "sha256:" + "0" * 64}]}, "No such file"),
        ({"manifests": 3}, "not a JSON array"),
        ([], "not a JSON object"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, change: object, words: str) -> None:
    place = write_layout(tmp_path / "x", tar(member("a", b"1")))
    (place / "index.json").write_text(json.dumps(change))
    with pytest.raises(ImageError, match=words):
        load(str(place))


def test_a_blob_with_other_bytes_is_refused(tmp_path: Path) -> None:
    layer = tar(member("a", b"1"))
    other = gzip.compress(tar(member("a", b"2")))
    place = write_layout(tmp_path / "x", layer, compressed=[other])
    with pytest.raises(ImageError, match="not that of"):
        load(str(place))
    blob = next(p for p in (place / "blobs/sha256").iterdir() if p.read_bytes() == other)
    blob.write_bytes(gzip.compress(layer))
    with pytest.raises(ImageError, match="another digest"):
        load(str(place))


def test_a_blob_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    place = write_layout(tmp_path / "x", tar(member("a", b"1")))
    for blob in (place / "blobs/sha256").iterdir():
        blob.rename(tmp_path / blob.name)
        blob.symlink_to(tmp_path / blob.name)
    with pytest.raises(ImageError, match="Too many levels"):
        load(str(place))


def test_nested_json_and_indexes_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    place = write_layout(tmp_path / "x", tar(member("a", b"1")))
    (place / "index.json").write_text("[" * 100_000)
    with pytest.raises(ImageError, match="not a JSON document"):
        load(str(place))


def test_another_architecture_is_named(tmp_path: Path) -> None:
    place = write_layout(tmp_path / "x", tar(member("a", b"1")))
    index = json.loads((place / "index.json").read_text())
    index["manifests"][0]["platform"] = {"architecture": "s390x", "os": "linux"}
    (place / "index.json").write_text(json.dumps(index))
    with pytest.raises(ImageError, match="it has s390x"):
        load(str(place))


@pytest.mark.parametrize("content", [b"", b"hello", b"x" * 2000])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ImageError, match=r"^[^\n]*damaged|archive"):
        load(str(tmp_path / "x"))


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ImageError, match="no such file"):
        load("/nowhere:tag")
    with pytest.raises(ImageError, match="neither a file"):
        load("/dev/null")


def test_a_store_leaves_nothing_and_clears_what_a_kill_left(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with Store() as one:
        fd, path = one.create()
        os.close(fd)
        assert os.path.exists(path)
        with Store() as two:  # another process's, in use, stays
            assert two.path != one.path
        assert os.path.exists(path)
    assert os.listdir(tmp_path) == []
    abandoned = tmp_path / "samepage-image-killed"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    with Store():
        assert not abandoned.exists()


def test_users_by_name_and_number(tmp_path: Path) -> None:
    layer = tar(
        member("etc/passwd", b"root:x:0:0:r:/root:/bin/sh\nweb:x:33:34:w:/srv:\n"),
        member("etc/group", b"www:x:35:\n"),
    )
    place = write_layout(tmp_path / "x", layer)
    with Store() as store:
        image = read_image(str(place), store, lambda path, start: True)
        for text, expected in (
            ("", (0, 0, "/root")),
            ("web", (33, 34, "/srv")),
            ("33", (33, 34, "/srv")),
            ("web:www", (33, 35, "/srv")),
            ("7:8", (7, 8, "/")),
        ):
            assert user_of(with_user(image, text)) == expected
        for text in ("nobody-here", "web:none"):
            with pytest.raises(ImageError, match="not in its"):
                user_of(with_user(image, text))


def with_user(image: Image, user: str) -> Image:
    from dataclasses import replace

    process = replace(image.config.process, user=user)
    return replace(image, config=replace(image.config, process=process))
