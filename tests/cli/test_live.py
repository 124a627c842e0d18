"""`samepage live` as a user runs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from samepage.abi.pagemap import Kpf
from samepage.report.tables import cell_len
from tests.live.live_processes import read_smaps
from tests.live.proc_tree import FILE, PRESENT, ProcTree, maps_line

OTHER_USER = 65534

with open("/proc/self/pagemap", "rb") as _pagemap:
    _pagemap.seek(id(object) // 4096 * 8)
    FRAMES_VISIBLE = int.from_bytes(_pagemap.read(8), "little") & ((1 << 55) - 1) != 0
needs_frames = pytest.mark.skipif(
    not FRAMES_VISIBLE, reason="the kernel shows frame numbers only with CAP_SYS_ADMIN"
)


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        wait_for_program(process.pid, "sleep")
        yield process.pid
        process.kill()


def wait_for_program(pid: int, name: str) -> None:
    for _ in range(1000):
        if os.readlink(f"/proc/{pid}/exe").endswith("/" + name):
            time.sleep(0.05)
            return
        time.sleep(0.005)
    raise AssertionError(f"{pid} is not {name}")


def samepage(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with these environment variables too."""
    code = "from samepage.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables},
    )


@needs_frames
def test_the_whole_system_fits_80_columns() -> None:
    done = samepage("live")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "processes with" in lines[0]
    assert any(line.startswith("Sharing saves") for line in lines)
    assert [line.split()[0] for line in lines if "RSS" in line or "SAVED" in line][:2] == [
        "PROCESS",
        "FILE",
    ]
    assert max(map(cell_len, lines)) <= 80


def test_live_and_report_of_one_capture_print_the_same(tmp_path: Path) -> None:
    # A /proc of files does not change: other processes of this machine would not.
    tree = ProcTree(tmp_path / "proc")
    for pid in range(10, 20):
        maps = maps_line(0x400000, 0x403000, "r-xp 00000000 08:01 5 /lib/x.so")
        maps += maps_line(0x500000, 0x502000)
        pages = {0x400: PRESENT | FILE | 7, 0x401: PRESENT | FILE | 8, 0x500: PRESENT | 100 + pid}
        tree.process(pid, maps, pages)
        tree.frame(100 + pid, 1 + pid % 3, Kpf.ANON | Kpf.SWAPBACKED)
    for frame in (7, 8):
        tree.frame(frame, 30, 0)
    live = samepage("live", "--proc", tree.proc, "--top", "0").stdout
    assert samepage("live", "--proc", tree.proc, "-o", f"{tmp_path}/s/").returncode == 0
    assert live == samepage("report", f"{tmp_path}/s", "--top", "0").stdout
    assert "10 processes with" in live
    assert "/lib/x.so" in live


@needs_frames
def test_one_process_by_pid(sleeper: int) -> None:
    done = samepage("live", str(sleeper))
    assert done.returncode == 0
    assert done.stdout.startswith("1 process with ")
    assert "sleep 1000" in done.stdout
    assert "libc.so.6" in done.stdout


@needs_frames
def test_processes_by_name(sleeper: int) -> None:
    done = samepage("live", "sleep", "-f", "json")
    document = json.loads(done.stdout)
    assert document["source"] == "live"
    assert sleeper in [process["pid"] for process in document["processes"]]
    assert {process["comm"] for process in document["processes"]} == {"sleep"}


@needs_frames
def test_a_snapshot_can_be_written_and_reported(sleeper: int, tmp_path: Path) -> None:
    target = tmp_path / "capture"
    assert samepage("live", str(sleeper), "-o", str(target)).returncode == 0
    assert (target / "pages.parquet").exists()
    done = samepage("report", str(target))
    assert done.returncode == 0
    assert "sleep 1000" in done.stdout


@needs_frames
def test_an_html_page_can_be_written(sleeper: int, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    assert samepage("live", str(sleeper), "-o", str(target)).returncode == 0
    assert "libc.so.6" in target.read_text()


@needs_frames
def test_metrics_are_read_by_the_official_parser(tmp_path: Path) -> None:
    target = tmp_path / "samepage.prom"
    done = samepage("live", "-o", str(target))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    families = {
        family.name: family for family in text_string_to_metric_families(target.read_text())
    }
    assert all(name.startswith("samepage_") for name in families)
    assert all(family.documentation and family.type == "gauge" for family in families.values())
    values = {name: family.samples[0].value for name, family in families.items()}
    saved = values["samepage_resident_bytes"] - values["samepage_frames_bytes"]
    assert values["samepage_saved_bytes"] == saved > 0
    programs = families["samepage_program_resident_bytes"].samples
    assert sum(sample.value for sample in programs) == values["samepage_resident_bytes"]
    of_groups = families.pop("samepage_cgroup_memory_bytes", None)  # by group, and by ten kinds
    if of_groups is not None:
        assert len({sample.labels["cgroup"] for sample in of_groups.samples}) <= 51
        assert len({sample.labels["kind"] for sample in of_groups.samples}) <= 10
    assert all(len(family.samples) <= 51 for family in families.values())
    assert list(tmp_path.iterdir()) == [target]


def test_what_does_not_exist_is_an_error_of_one_line() -> None:
    for target, text in (
        ("nothing-like-this", "called"),
        ("4194305", "no process"),
        ("a\nb\x1b[2J", r"called a\nb\x1b[2J"),
        ("", "called"),
    ):
        done = samepage("live", target)
        assert done.returncode == 2
        assert text in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_kernel_thread_has_nothing_to_show() -> None:
    if not kernel_thread():
        pytest.skip("no kernel thread can be seen here")
    done = samepage("live", str(kernel_thread()))
    assert done.returncode == 2
    assert "no memory" in done.stderr


def kernel_thread() -> int:
    """Return the pid of kthreadd, 0 in a pid namespace that has none."""
    try:
        with open("/proc/2/comm") as comm:
            return 2 if comm.read() == "kthreadd\n" else 0
    except OSError:
        return 0


def test_an_unknown_suffix_is_refused_before_the_work(tmp_path: Path) -> None:
    done = samepage("live", "-o", str(tmp_path / "report.xyz"))
    assert done.returncode == 2
    assert "unknown format of" in done.stderr


@pytest.fixture
def sleeper_of_other_user() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"], user=OTHER_USER, group=OTHER_USER) as process:
        wait_for_program(process.pid, "sleep")
        yield process.pid
        process.kill()


def as_other_user(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command without privileges."""
    # Everything is imported first: the other user may not be able to read this environment.
    code = f"""
import os, samepage.cli.live, samepage.live.capture, samepage.live.smaps
import samepage.report.json, samepage.report.text, samepage.report.output
import samepage.report.file_text, encodings.idna, locale
from samepage.cli.main import main
os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})
main({list(arguments)!r})
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
def test_without_privileges_own_processes_are_shown_and_missing_ones_counted(
    sleeper_of_other_user: int,
) -> None:
    done = as_other_user("live")
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if f" {sleeper_of_other_user} " in line)
    assert row.split()[:2] == ["sleep", "1000"]
    assert row.split()[3] not in ("0", "?")
    assert done.stderr.count("\n") == 1
    assert "CAP_SYS_ADMIN" in done.stderr
    assert "CAP_SYS_PTRACE" in done.stderr
    assert "sudo" in done.stderr


@needs_root
def test_without_privileges_a_report_has_the_kernels_sums(sleeper_of_other_user: int) -> None:
    document = json.loads(as_other_user("live", str(sleeper_of_other_user), "-f", "json").stdout)
    (process,) = document["processes"]
    # Who else maps a file's page, and with it Pss, changes with each program that comes or goes.
    for name, theirs in (
        ("rss", "Rss"),
        ("private_dirty", "Private_Dirty"),
        ("anonymous", "Anonymous"),
        ("swapped", "Swap"),
    ):
        assert {vma["start"]: vma[f"{name}_pages"] * 4 for vma in process["vmas"]} == {
            start: vma[theirs] for start, vma in read_smaps(sleeper_of_other_user).items()
        }
    parts = ("shared_clean", "shared_dirty", "private_clean", "private_dirty")
    assert process["rss_pages"] == sum(process[f"{part}_pages"] for part in parts)
    assert process["pss_pages"] * 4 == sum(vma["pss_kib"] for vma in process["vmas"])
    assert process["uss_pages"] < process["pss_pages"] < process["rss_pages"]
    # Nothing is known of frames, so no saving is reported.
    assert document["totals"]["frames"] == document["totals"]["saved_pages"] == 0
    assert {file["saved_pages"] for file in document["files"]} == {0}


@needs_frames
def test_a_closed_pipe_ends_it_quietly() -> None:
    code = "from samepage.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "live"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; from samepage.cli.main import run; run(['live', '--help']); "
        "print(sorted({'numpy', 'pyarrow', 'rich', 'textual'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


@needs_frames
def test_the_text_report_needs_no_arrow() -> None:
    code = (
        "import sys; from samepage.cli.main import run; run(['live']); "
        "print(sorted({'pyarrow', 'rich', 'textual'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
