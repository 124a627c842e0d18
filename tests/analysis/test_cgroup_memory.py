"""What control groups are charged for, of made-up counters as versions 1 and 2 print them."""

import io
import json
from pathlib import Path

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from samepage.analysis.cgroup_memory import CgroupAccounts, Charge, Charges, Limit
from samepage.analysis.machine_memory import machine_memory
from samepage.analysis.sharing import Sharing
from samepage.report import print_report, write_report
from samepage.report.json import document, schema
from samepage.report.tables import Terminal
from samepage.snapshot import parquet
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Cgroup, Process, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

ID = "0123456789abcdef" * 4
DOCKER = f"/system.slice/docker-{ID}.scope"
NGINX = "/system.slice/nginx.service"
PAGE = 4096


def v2(path: str, inode: int, current: int, **stat: int) -> Cgroup:
    limits = {"memory.max": stat.pop("max", 0), "memory.high": stat.pop("high", 0)}
    counters = {"memory.current": current, "memory.swap.current": 0}
    counters |= {f"memory.stat.{key}": value for key, value in stat.items()}
    return Cgroup(path, inode, 2, counters | {k: v for k, v in limits.items() if v})


def machine_of_two_groups(wanted: str = "all") -> Snapshot:
    """Pid 1 in docker's group maps frames 10, 11, 40, pid 2 in nginx's 11, 12, 40.

    Frames 10, 11 and 40 (of shared memory) are charged to docker's, 12 to the slice itself.
    """
    builder = SnapshotBuilder(
        "live", processes_wanted=wanted, processes_denied="0", processes_stuck="0"
    )
    builder.add_machine({"MemTotal": 100 * PAGE, "MemFree": 40 * PAGE, "AnonPages": 10 * PAGE,
                         "Cached": 30 * PAGE, "Shmem": 5 * PAGE, "Mapped": 9 * PAGE,
                         "Slab": 8 * PAGE, "KernelStack": 2 * PAGE, "VmallocUsed": 3 * PAGE,
                         "PageTables": PAGE, "zoneinfo.count": 4 * PAGE})  # fmt: skip
    builder.add_cgroup(Cgroup("/", 1, 2, {}))
    builder.add_cgroup(v2("/system.slice", 10, 200 * PAGE, max=500 * PAGE))
    builder.add_cgroup(
        v2(DOCKER, 11, 75 * PAGE, anon=10 * PAGE, file=55 * PAGE, shmem=5 * PAGE,
           file_mapped=6 * PAGE, kernel=8 * PAGE, slab=5 * PAGE, kernel_stack=PAGE, sock=PAGE,
           high=60 * PAGE)
    )  # fmt: skip
    builder.add_cgroup(v2(NGINX, 12, 20 * PAGE, anon=19 * PAGE, file=PAGE, max=600 * PAGE))
    lib = builder.add_file(1, 2, "/lib/x.so", size=3 * PAGE)
    memory = builder.add_file(3, 4, "/dev/zero", deleted=True)
    for pid, group in ((1, f"{DOCKER}/init.scope"), (2, NGINX)):
        own = DOCKER if pid == 1 else NGINX
        container = f"docker:{ID}" if pid == 1 else ""
        builder.add_process(
            Process(pid, cgroup=group, container=container, memory_cgroup=own, comm=str(pid))
        )
        builder.add_vma(pid, 0x100000, 0x103000, "r-xp", 0, lib, "/lib/x.so")
        builder.add_vma(pid, 0x400000, 0x401000, "rw-s", 0, memory, "/dev/zero")
        present = PageFlags.PRESENT | PageFlags.FILE
        builder.add_pages(
            pid, (0xFF + pid, 0x100 + pid, 0x400), (9 + pid, 10 + pid, 40), (present,) * 3
        )
    for frame, kind, file, index in (
        *((10 + index, FrameKind.FILE, lib, index) for index in range(3)),
        (40, FrameKind.SHMEM, memory, 0),
    ):
        builder.add_frames([frame], [kind], [file], [index], [2], [0])
        builder.charge(frame, "/system.slice" if frame == 12 else DOCKER)
    return builder.build()


def test_the_kinds_and_the_rest_are_the_sum() -> None:
    docker, nginx = CgroupAccounts(Sharing(machine_of_two_groups())).all()
    assert (docker.path, docker.current) == (DOCKER, 75 * PAGE)
    kinds = docker.kinds
    assert (kinds.anonymous, kinds.file, kinds.shmem) == (10 * PAGE, 50 * PAGE, 5 * PAGE)
    # One page of shared memory is mapped, and in file_mapped too.
    assert (kinds.file_mapped, kinds.file_unmapped) == (5 * PAGE, 45 * PAGE)
    assert (kinds.kernel, kinds.sockets) == (8 * PAGE, PAGE)
    assert kinds.kernel_parts == (("slab", 5 * PAGE), ("stacks", PAGE))
    assert docker.rest == PAGE
    assert docker.current == kinds.sum + docker.rest
    assert (docker.limit, docker.high) == (
        Limit(500 * PAGE, "/system.slice"),
        Limit(60 * PAGE, DOCKER),
    )
    assert nginx.limit == Limit(500 * PAGE, "/system.slice")  # of the slice, less than its own
    assert (nginx.rest, nginx.kinds.file_mapped) == (0, 0)


def test_version_1() -> None:
    builder = SnapshotBuilder("live", processes_wanted="all")
    stat = {"total_cache": 30, "total_shmem": 0, "total_mapped_file": 10, "total_rss": 20,
            "total_swap": 7, "cache": 1, "rss": 1}  # fmt: skip
    counters = {f"memory.stat.{key}": value * PAGE for key, value in stat.items()}
    counters |= {"memory.usage_in_bytes": 58 * PAGE, "memory.kmem.usage_in_bytes": 6 * PAGE}
    builder.add_cgroup(Cgroup("/", 1, 1, {}))
    builder.add_cgroup(Cgroup("/a", 2, 1, counters | {"memory.limit_in_bytes": 99 * PAGE}))
    builder.add_process(Process(1, memory_cgroup="/a"))
    (memory,) = CgroupAccounts(Sharing(builder.build())).all()
    assert (memory.kinds.file_mapped, memory.kinds.file_unmapped) == (10 * PAGE, 20 * PAGE)
    assert (memory.kinds.kernel, memory.rest, memory.swap) == (6 * PAGE, 2 * PAGE, 7 * PAGE)
    assert memory.limit == Limit(99 * PAGE, "/a")
    assert memory.kinds.sockets is None


def test_who_is_charged_for_what() -> None:
    accounts = CgroupAccounts(Sharing(machine_of_two_groups()))
    assert accounts.charges(DOCKER) == Charges((), (Charge(NGINX, 2),))  # frames 11 and 40
    assert accounts.charges(NGINX) == Charges((Charge(DOCKER, 2), Charge("/system.slice", 1)), ())
    assert accounts.charges("/system.slice") == Charges((), ())


def test_what_is_not_known_is_not_counted() -> None:
    snapshot = machine_of_two_groups("some")
    accounts = CgroupAccounts(Sharing(snapshot))
    kinds = accounts.all()[0].kinds
    assert (kinds.file, kinds.file_mapped, kinds.file_unmapped) == (50 * PAGE, None, None)
    assert accounts.charges(NGINX).lent is None
    snapshot.charged = snapshot.charged[:0]
    assert CgroupAccounts(Sharing(snapshot)).charges(NGINX) == Charges(None, None)


def test_the_machine() -> None:
    memory = machine_memory(Sharing(machine_of_two_groups()))
    assert memory is not None
    kinds = {key: value for key, _, value in memory.kinds}
    assert (memory.total, memory.used) == (100 * PAGE, 60 * PAGE)
    assert (kinds["file"], kinds["file_mapped"], kinds["file_unmapped"]) == (
        *(25 * PAGE, 8 * PAGE, 17 * PAGE),
    )
    assert kinds["vmalloc"] == 3 * PAGE
    assert memory.rest == (60 - 10 - 25 - 5 - 8 - 3 - 1 - 4) * PAGE
    unknown = machine_memory(Sharing(machine_of_two_groups("some")))
    assert unknown is not None
    assert {key: value for key, _, value in unknown.kinds}["file_mapped"] is None
    assert unknown.rest == memory.rest
    assert machine_memory(Sharing(Snapshot.empty())) is None


def test_what_the_group_of_a_container_is_charged_for() -> None:
    sharing = Sharing(machine_of_two_groups())
    accounts = CgroupAccounts(sharing)
    docker, nginx = ([use] for use in sharing.processes)
    assert accounts.charged_to("container", docker) == 75 * PAGE
    assert accounts.charged_to("unit", nginx) == 20 * PAGE
    assert accounts.charged_to("container", nginx) is None
    assert accounts.charged_to("user", docker) is None


def test_it_is_the_same_from_a_saved_snapshot(tmp_path: Path) -> None:
    snapshot = machine_of_two_groups()
    parquet.write(snapshot, tmp_path / "s")
    again = parquet.read(tmp_path / "s")
    assert (again.cgroups, again.machine) == (snapshot.cgroups, snapshot.machine)
    assert again.charged.tolist() == snapshot.charged.tolist()
    assert document(Sharing(again)) == document(Sharing(snapshot))


def test_a_snapshot_of_an_earlier_samepage_has_no_groups(tmp_path: Path) -> None:
    parquet.write(machine_of_two_groups(), tmp_path / "s")
    for name in ("cgroups", "counters"):
        (tmp_path / f"s/{name}.parquet").unlink()
    with pytest.raises(Exception, match="is in no row of cgroups"):
        parquet.read(tmp_path / "s")
    parquet.write(Snapshot.empty("live"), tmp_path / "e")
    for name in ("cgroups", "counters"):
        (tmp_path / f"e/{name}.parquet").unlink()
    assert parquet.read(tmp_path / "e").cgroups == []


def test_each_output_has_it() -> None:
    snapshot = machine_of_two_groups()
    found = document(Sharing(snapshot))
    jsonschema.Draft202012Validator(schema()).validate(found)
    assert found["cgroups"][0]["lent"] == [{"path": NGINX, "pages": 2}]
    assert found["machine"]["kinds"]["file_mapped_bytes"] == 8 * PAGE
    stream = io.StringIO()
    print_report(snapshot, Terminal(stream, 200))
    text = stream.getvalue()
    assert f"{NGINX} maps 8 KiB that {DOCKER} is charged for" in text
    assert "Memory of the machine: 240 KiB of 400 KiB is not free" in text
    stream = io.StringIO()
    write_report(snapshot, stream, "html")
    assert "Memory of control groups" in stream.getvalue()
    stream = io.StringIO()
    write_report(snapshot, stream, "prometheus")
    families = {f.name: f for f in text_string_to_metric_families(stream.getvalue())}
    samples = {
        (each.labels["cgroup"], each.labels["kind"]): each.value
        for each in families["samepage_cgroup_memory_bytes"].samples
    }
    assert samples[DOCKER, "file_unmapped"] == 45 * PAGE
    assert sum(value for (path, _), value in samples.items() if path == DOCKER) == 75 * PAGE
    assert json.loads(json.dumps(found)) == found


def test_what_is_not_known_has_a_reason() -> None:
    snapshot = machine_of_two_groups()
    snapshot.meta["processes_denied"] = "1"
    stream = io.StringIO()
    print_report(snapshot, Terminal(stream, 200))
    text = stream.getvalue()
    assert "LENT: ? (all processes must be read" in text
    assert text.count("How much of the page cache is mapped: ? (the kernel counts") == 2
    snapshot.charged = snapshot.charged[:0]
    stream = io.StringIO()
    print_report(snapshot, Terminal(stream, 200))
    assert (
        "Who is charged for what others use: ? (/proc/kpagecgroup is root's)" in stream.getvalue()
    )


def test_a_group_that_was_asked_for_is_shown_by_kind() -> None:
    snapshot = machine_of_two_groups("some")
    stream = io.StringIO()
    print_report(snapshot, Terminal(stream, 100))
    text = stream.getvalue()
    assert f"Memory of {NGINX}: 80 KiB, limit 2.0 MiB (of /system.slice)" in text
    assert "What others map that it is charged for: ?" in text
    assert "Memory of the machine" not in text
