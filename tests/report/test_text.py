"""The text report begins with the answer, fits its terminal, and prints hostile names tamely."""

import io

import pytest

from samepage.analysis.sharing import Sharing
from samepage.report import print_report
from samepage.report.tables import Column, Cut, Terminal, cell_len, fitted, shortened
from samepage.report.text import mapped_by, write
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from tests.analysis.sample import sample

HOSTILE = "/tmp/a\n\x1b[2J[red]\u202eevil (deleted)"


def printed(snapshot: Snapshot, width: int, top: int | None = 20) -> str:
    stream = io.StringIO()
    print_report(snapshot, Terminal(stream, width), top=top)
    return stream.getvalue()


def many(processes: int) -> Snapshot:
    builder = SnapshotBuilder("model")
    for pid in range(1, processes + 1):
        builder.add_process(
            Process(
                pid,
                argv=(
                    "/usr/bin/program-with-a-long-name",
                    "x" * 300,
                ),
            )
        )
        file = builder.add_file(1, pid, f"/usr/lib/{'deep/' * 30}lib{pid}.so")
        builder.add_vma(pid, 4096, 8192, "r--p", 0, file, "lib")
        builder.add_pages(pid, [1], [pid], [5])
        builder.add_frames([pid], [1], [file], [0], [1], [0])
    return builder.build()


def test_the_answer_comes_first() -> None:
    assert printed(sample(), 200).splitlines()[:3] == [
        "3 processes with 112 KiB of virtual memory, 68 KiB of it resident (17 pages).",
        "These are 13 frames of physical memory, 52 KiB: 28 KiB page cache of files, "
        "16 KiB anonymous, 4 KiB shared memory, 4 KiB other (such as the vDSO).",
        "Sharing saves 16 KiB (4 frames, 24 %).",
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 132, 250])
@pytest.mark.parametrize("snapshot", [sample(), many(3), Snapshot.empty()])
def test_no_line_is_wider_than_the_terminal(snapshot: Snapshot, width: int) -> None:
    lines = printed(snapshot, width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert "\x1b" not in "".join(lines)


def test_80_columns_have_all_numbers_of_a_process() -> None:
    rows = [" ".join(line.split()) for line in printed(sample(), 80).splitlines()]
    assert "PROCESS PID PSS USS RSS ANON SWAP EXIT MINOR FAULTS MAJOR" in rows
    assert "a -x 1 20 KiB 12 KiB 28 KiB 8 KiB 0 12 1" in rows
    assert "b 2 20 KiB 12 KiB 28 KiB 12 KiB 4 KiB 3 9 0" in rows


def test_a_file_lists_the_processes_that_map_and_copy_it() -> None:
    assert "1: 4+1, 2: 3+2" in printed(sample(), 80)


def test_lost_sharing_and_missing_processes_are_reported() -> None:
    text = printed(sample(), 200)
    assert "Lost sharing: 8 KiB more if equal files were one inode" in text
    assert "8 KiB  /layer/lib/libc.so.6 (1 process: 3; in web): in another container" in text
    assert "System calls that the model does not have (ENOSYS): io_uring_setup (2)." in text


def test_long_tables_are_cut_and_the_rest_is_counted() -> None:
    text = printed(many(25), 80, top=20)
    assert "and 5 more with a PSS of 20 KiB" in text
    assert "and 5 more with 20 KiB of frames" in text
    assert "more with" not in printed(many(25), 80, top=None)


def test_names_cannot_move_the_cursor_or_colour_the_terminal() -> None:
    builder = SnapshotBuilder("live")
    builder.add_process(Process(1, argv=(HOSTILE,), container=HOSTILE))
    builder.add_process(Process(2, comm="kthread"))
    file = builder.add_file(1, 1, HOSTILE, deleted=True)
    builder.add_vma(1, 4096, 8192, "r--p", 0, file, HOSTILE)
    builder.add_pages(1, [1], [9], [5])
    builder.add_frames([9], [1], [file], [0], [1], [0])
    text = printed(builder.build(), 200)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"/tmp/a\n\x1b[2J[red]\u202eevil (deleted)" in text
    assert "[kthread]" in text


def test_hidden_frames_are_reported() -> None:
    builder = SnapshotBuilder("live")
    for pid in (1, 2, 3):
        builder.add_process(Process(pid, exe=f"/bin/{pid // 2}"))
        file = builder.add_file(1, 1, "/lib/x")
        builder.add_vma(pid, 4096, 8192, "r--p", 0, file, "/lib/x", (1, 0, 0, 0, 0, 3 << 22))
        builder.add_pages(pid, [1], [0], [5])
    text = printed(builder.build(), 200)
    assert "does not show the frames of 3 pages: run as root" in text
    row = next(line for line in text.splitlines() if "/lib/x" in line)
    assert row.split() == ["/lib/x", "3", "12", "KiB", "?", "?", "0", "1"]
    row = next(line for line in text.splitlines() if "/bin/1" in line)
    assert row.split() == ["/bin/1", "2", "6", "KiB", "?", "?", "?", "8", "KiB"]


def test_a_file_gets_all_rows_and_no_colour() -> None:
    stream = io.StringIO()
    write(Sharing(many(30)), stream)
    assert "more with" not in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 100


def test_an_encoding_without_the_characters_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    builder = SnapshotBuilder("model")
    builder.add_process(Process(1, argv=("/bin/größe",)))
    print_report(builder.build(), Terminal(stream, 80))
    stream.flush()
    assert rb"/bin/gr\xf6\xdfe" in raw.getvalue()


def test_a_terminal_gets_bold_headings() -> None:
    stream = io.StringIO()
    print_report(sample(), Terminal(stream, 80, styled=True))
    assert "\x1b[1m" in stream.getvalue()


def test_columns_of_less_worth_give_way() -> None:
    columns = [Column("Name", cut=Cut.END), Column("A", rank=2), Column("B"), Column("C", rank=1)]
    rows = [["x" * 50, "a" * 10, "b" * 10, "c" * 10]]

    def titles(width: int) -> list[str]:
        return fitted(columns, rows, width)[0][0].split()

    assert titles(64) == ["Name", "A", "B", "C"]
    assert titles(63) == ["Name", "B", "C"]
    assert titles(51) == ["Name", "B"]
    assert titles(20) == ["Name", "B"]


def test_an_empty_column_is_left_out() -> None:
    columns = [Column("Name", cut=Cut.END), Column("A", rank=1), Column("B")]
    lines = fitted(columns, [["x", "", "1"], ["y", "", ""]], 80)
    assert lines == [("Name  B", True), ("x     1", False), ("y", False)]


def test_long_cells_are_cut_at_their_least_useful_end() -> None:
    assert shortened("/usr/lib/x86_64-linux-gnu/libc.so.6", 12, Cut.PATH) == "...libc.so.6"
    assert shortened("/lib/_ctypes.cpython-311.so", 15, Cut.PATH) == "_ctype...311.so"
    assert shortened("/lib/math.cpython-311.so", 15, Cut.PATH) == "math.c...311.so"
    assert shortened("Resident (sum of RSS)", 12, Cut.END) == "Resident ..."
    # a wide character counts as two
    assert shortened("/包包包包包/包", 9, Cut.PATH) == "...包/包"
    assert shortened("/包包包包包包包", 9, Cut.PATH) == "包 ...包"


def test_a_long_command_line_loses_its_directory_first() -> None:
    assert shortened("/usr/bin/python3 -c pass", 16, Cut.COMMAND) == "python3 -c pass"
    assert shortened("/usr/bin/python3 -c pass", 12, Cut.COMMAND) == "python3 -..."
    assert shortened("/bin/true", 12, Cut.COMMAND) == "/bin/true"
    assert shortened("nginx: master of /usr/sbin/nginx", 12, Cut.COMMAND) == "nginx: ma..."


def test_what_is_folded_stays_indented() -> None:
    columns = [Column("File", cut=Cut.PATH), Column("A")]
    _, *lines = fitted(columns, [["/lib/x\n  12: 400+6, 13: 389+6, and 6 more", "1"]], 24)
    assert [line for line, _ in lines] == [
        "/lib/x                 1",
        "  12: 400+6, 13:",
        "    389+6, and 6 more",
    ]


def test_only_some_of_many_mappers_are_named() -> None:
    builder = SnapshotBuilder("model")
    file = builder.add_file(1, 1, "/lib/x")
    for pid in range(1, 6):
        builder.add_process(Process(pid))
        builder.add_vma(pid, 4096, 8192 * 4, "r--p", 0, file, "/lib/x")
        builder.add_pages(pid, range(1, pid + 1), range(1, pid + 1), [5] * pid)
    ones = [1] * 5
    builder.add_frames(range(1, 6), ones, [file] * 5, range(5), ones, ones)
    sharing = Sharing(builder.build())
    (libx,) = sharing.files
    assert mapped_by(sharing, libx) == "5: 5, 4: 4, and 3 more"
    assert mapped_by(sharing, libx, 5) == "5: 5, 4: 4, 3: 3, 2: 2, 1: 1"


def test_a_model_run_names_its_engine() -> None:
    builder = SnapshotBuilder("model", engine="unicorn")
    builder.add_process(Process(1, argv=("true",)))
    assert "Run on the model, with the engine unicorn." in printed(builder.build(), 80)
    assert "engine" not in printed(many(1), 80)
