"""Layers in tar archives: what they have, and what hostile ones are refused for."""

import gzip
import tarfile
import zlib

import pytest

from samepage.images import tar_layer
from samepage.images.layer import Layer
from samepage.images.limits import ImageError
from samepage.images.tree import Tree
from tests.images.archives import digest, directory, link, member, read, tar


def test_files_links_and_marks_are_read() -> None:
    layer = read(
        tar(
            directory("./"),
            directory("etc"),
            member("etc/a", b"one", uid=7, gid=8, mode=0o640, mtime=5),
            member("etc/b", type=tarfile.LNKTYPE, linkname="./etc/a"),
            link("etc/c", "a"),
            member("etc/.wh.gone"),
            member("usr/.wh..wh..opq"),
        )
    )
    a, b = layer.entries["etc/a"], layer.entries["etc/b"]
    assert a.content is b.content
    assert a.content is not None
    assert (a.content.size, a.mode & 0o7777, a.uid, a.gid, a.mtime) == (3, 0o640, 7, 8, 5)
    assert layer.entries["etc/c"].target == "a"
    assert (layer.hidden, layer.opaque) == ({"etc/gone"}, {"usr"})


def test_attributes_of_pax_headers_are_read() -> None:
    info, data = member("ping", b"x")
    info.pax_headers = {"SCHILY.xattr.security.capability": "caps"}
    entry = read(tar((info, data))).entries["ping"]
    assert entry.attributes == {"security.capability": b"caps"}


@pytest.mark.parametrize("size", [511, 512, 513, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_files_of_every_length_up_to_block_borders_are_whole(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    layer = read(tar(member("a", data[:size]), member("b", b"after")))
    a, b = layer.entries["a"].content, layer.entries["b"].content
    assert a is not None
    assert b is not None
    assert "sha256:" + a.digest.hex() == digest(data[:size])
    assert b.size == 5


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "a/../../b", "/etc/passwd", "a/" + "b" * 5000, ".wh...", "x/.wh."]
)
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(ImageError):
        read(tar(member(name, b"x")))


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "missing"])
def test_hard_links_to_what_is_not_in_the_layer_are_refused(target: str) -> None:
    with pytest.raises(ImageError):
        read(tar(member("a", type=tarfile.LNKTYPE, linkname=target)))


def test_a_file_below_a_link_of_its_layer_is_refused() -> None:
    layer = read(tar(link("a", "/etc"), member("a/passwd", b"x")))
    with pytest.raises(ImageError, match="no directory"):
        Tree([layer])


def test_a_directory_of_an_upper_layer_replaces_a_link_below() -> None:
    tree = Tree([read(tar(link("a", "/etc"))), read(tar(directory("a"), member("a/b", b"x")))])
    assert tree.lookup("/a/b", follow=False) is not None


def test_a_stream_of_zeros_that_expands_without_end_is_refused() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros, parts = bytes(1 << 20), []
    info, _ = member("zeros")
    info.size = 3 << 30
    parts.append(packer.compress(info.tobuf()))
    # Deflate gives 1,032 to 1 at most, so that the first GiB is what the bound is for.
    parts += [packer.compress(zeros) for _ in range(1100)]
    with pytest.raises(ImageError, match=r"damaged|trap|ends"):
        read(b"".join(parts) + packer.flush())


def test_a_zstd_stream_that_expands_beyond_measure_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    info, _ = member("zeros")
    info.size = 3 << 30
    packer = zstandard.ZstdCompressor(level=3).compressobj()
    data = packer.compress(info.tobuf())
    data += b"".join(packer.compress(bytes(1 << 22)) for _ in range(600)) + packer.flush()
    assert len(data) < 1 << 20
    with pytest.raises(ImageError, match="trap"):
        read(data)


def test_a_header_that_claims_gigabytes_is_refused() -> None:
    info, _ = member("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    with pytest.raises(ImageError, match="header"):
        read(info.tobuf(format=tarfile.GNU_FORMAT) + bytes(1024))


def test_too_many_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_layer, "MOST_ENTRIES", 10)
    with pytest.raises(ImageError, match="more than 10 names"):
        read(tar(*(member(str(n), b"") for n in range(12))))


@pytest.mark.parametrize("cut", [100, 600, 1500])
def test_a_layer_that_is_cut_off_is_damaged(cut: int) -> None:
    data = tar(member("a", b"x" * 2000))
    with pytest.raises(ImageError, match=r"damaged|ends"):
        read(data[:cut])
    with pytest.raises(ImageError, match="damaged"):
        read(gzip.compress(data)[:-20])


def test_a_layer_with_another_digest_is_damaged() -> None:
    data = tar(member("a", b"x"))
    assert read(data, digest(data)).entries
    with pytest.raises(ImageError, match="not that of"):
        read(data, digest(b""))


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_compressed_layers_are_read(compression: str) -> None:
    import bz2
    import lzma

    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[compression]
    data = tar(member("a", b"x"))
    assert list(read(pack(data)).entries) == ["a"]


def test_gzip_of_several_members_and_zeros_behind_it_is_read() -> None:
    data = tar(member("a", b"x" * 5000))
    packed = gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(100)
    assert list(read(packed, digest(data)).entries) == ["a"]


def test_devices_are_entries_and_never_made(tmp_path: object) -> None:
    layer: Layer = read(tar(member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)))
    assert layer.entries["null"].rdev == 0x103
