"""Options that choose and group processes, the same of `live` and of `report`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samepage.abi.pagemap import Kpf
from tests.cli.test_live import samepage
from tests.live.proc_tree import PRESENT, ProcTree, maps_line

ID = "0123456789abcdef" * 4
GROUPS = {
    10: "/system.slice/nginx.service",
    11: "/system.slice/nginx.service",
    20: f"/system.slice/docker-{ID}.scope",
    30: "/user.slice/user-1000.slice/session-1.scope",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> ProcTree:
    tree = ProcTree(tmp_path_factory.mktemp("machine") / "proc")
    for pid, cgroup in GROUPS.items():
        base = tree.process(pid, maps_line(0x500000, 0x502000), {0x500: PRESENT | 100 + pid})
        (base / "cgroup").write_text(f"0::{cgroup}\n")
        (base / "comm").write_text("a\n")
        tree.frame(100 + pid, 1, Kpf.ANON | Kpf.SWAPBACKED)
    config = tree.path / f"1/root/var/lib/docker/containers/{ID}/config.v2.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"Name": "/shop-web"}))
    assert samepage("live", "--proc", tree.proc, "-o", f"{tree.path}/../saved/").returncode == 0
    return tree


@pytest.mark.parametrize(
    ("options", "pids"),
    [
        (["--cgroup", "/system.slice"], [10, 11, 20]),
        (["--unit", "nginx"], [10, 11]),
        (["--container", "shop-web"], [20]),
        (["--container", ID[:8]], [20]),
        (["--unit", "nginx", "--cgroup", "/user.slice"], []),
        (["--user", str(os.getuid())], [10, 11, 20, 30]),
        (["11", "20", "--cgroup", "/system.slice"], [11, 20]),
        (["--tree", "30"], [30]),
    ],
)
def test_live_and_report_choose_the_same(
    tree: ProcTree, options: list[str], pids: list[int]
) -> None:
    for command in (["live", "--proc", tree.proc], ["report", f"{tree.path}/../saved"]):
        done = samepage(*command, *options, "-f", "json")
        if pids:
            assert [each["pid"] for each in json.loads(done.stdout)["processes"]] == pids
        else:
            assert done.returncode == 2
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("unit", ["nginx.service", "2"]),
        ("container", ["(none)", "3"]),
        ("user", [str(os.getuid()), "4"]),
        ("tree", None),
    ],
)
def test_groups_in_place_of_processes(tree: ProcTree, kind: str, first: list[str] | None) -> None:
    live = samepage("live", "--proc", tree.proc, "--by", kind).stdout
    assert live == samepage("report", f"{tree.path}/../saved", "--by", kind).stdout
    assert "PROCESS " not in live or kind == "tree"
    if kind == "container":
        assert "shop-web (docker:0123456789ab)" in live
    if first is not None and kind != "user":
        assert first in [line.split()[:2] for line in live.splitlines()]


def test_by_is_for_the_terminal(tree: ProcTree) -> None:
    done = samepage("live", "--proc", tree.proc, "--by", "unit", "-f", "json")
    assert done.returncode == 2
    assert "--by is for the terminal" in done.stderr


def test_a_tree_of_real_processes() -> None:
    code = (
        "import subprocess, sys; "
        "p = [subprocess.Popen(['sleep', '60']) for _ in range(2)]; print('ready', flush=True); "
        "sys.stdin.read(); [q.kill() for q in p]"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        done = samepage("live", "--tree", str(parent.pid), "-f", "json")
        parent.stdin.close()
    found = json.loads(done.stdout)["processes"]
    assert sorted(each["ppid"] == parent.pid for each in found) == [False, True, True]


def test_a_process_of_a_control_group_of_its_own() -> None:
    parent = next((d for d in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup") if _writable(d)), None)
    if parent is None:
        pytest.skip("no hierarchy of control groups is writable")
    name = f"samepage-test-{os.getpid()}.scope"
    Path(parent, name).mkdir()
    try:
        with subprocess.Popen(["sleep", "60"]) as process:
            Path(parent, name, "cgroup.procs").write_text(str(process.pid))
            for options in (["--cgroup", f"{parent}/{name}"], ["--unit", name]):
                document = json.loads(samepage("live", *options, "-f", "json").stdout)
                assert [each["pid"] for each in document["processes"]] == [process.pid]
                assert document["processes"][0]["unit"] == name
            process.kill()
    finally:
        Path(parent, name).rmdir()


def _writable(directory: str) -> bool:
    return os.access(f"{directory}/cgroup.procs", os.W_OK)
