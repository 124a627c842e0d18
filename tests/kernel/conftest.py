"""A machine's files over a small tree of the host."""

import os

import pytest

from tests.kernel.fs_helpers import boot


@pytest.fixture
def tree(tmp_path):
    """A host directory with files, links and a subdirectory."""
    (tmp_path / "file").write_bytes(b"content of the host\n")
    (tmp_path / "big").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "inner").write_bytes(b"inner\n")
    os.link(tmp_path / "file", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("file")
    (tmp_path / "dirlink").symlink_to("dir")
    (tmp_path / "absolute").symlink_to("/file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "escape").symlink_to("../../../../../../etc/passwd")
    return tmp_path


@pytest.fixture
def vfs(tree):
    return boot(tree)


@pytest.fixture
def ctx(vfs):
    return vfs.context()
