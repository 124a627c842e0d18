"""`image`, `run --image`: findings as ldd -r's, sharing as the kernel's, runs as in a chroot."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jsonschema
import pytest

from samepage.cli.main import run
from samepage.report.image import schema
from tests.images.archives import directory, link, member, tar, tool, write_layout

ROOT = os.geteuid() == 0
PROGRAMS = ("cat", "ls", "sh", "sqlite3", "xz", "tmux")


def copy_program(root: Path, program: str) -> list[str]:
    """Put a program of this system and its libraries into a root; their paths there."""
    libraries = re.findall(r"(/\S+) \(0x", subprocess.check_output(["ldd", program], text=True))
    placed = []
    for path in (program, *libraries):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        placed.append(path)
    return placed


def found_programs() -> list[str]:
    found = [shutil.which(name) for name in PROGRAMS]
    return [os.path.realpath(path) for path in found if path is not None]


def image_document(*words: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> dict:
    assert run(["image", "-f", "json", *words]) == status
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema())
    return document


@pytest.mark.skipif(not ROOT, reason="chroot needs root")
def test_findings_are_those_of_ldd_in_the_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    placed = {path for program in found_programs() for path in copy_program(root, program)}
    victims = [path for path in placed if re.search(r"/lib(tinfo|sqlite3|lzma|event)", path)]
    for path in victims[:2]:
        (root / path.lstrip("/")).unlink()
    findings = image_document(str(root), capsys=capsys)["images"][0]["links"]["findings"]
    ours = {
        (finding["what"].partition(", version")[0], program)
        for finding in findings
        for program in finding["programs"]
        if finding["kind"].startswith("missing-")
    }
    theirs = set()
    for program in found_programs():
        environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LD_BIND_NOW": "yes"}
        checked = subprocess.run(
            [program],
            env=environment,
            preexec_fn=partial(os.chroot, root),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        text = checked.stdout + checked.stderr
        for pattern in (r"(\S+) => not found", r"undefined symbol: ([^\s,]+)"):
            theirs |= {(name, program) for name in re.findall(pattern, text)}
    assert victims
    assert theirs
    assert ours == theirs


def test_fail_on_and_max_private_decide_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = os.path.realpath(shutil.which("cat") or "/bin/cat")
    copy_program(tmp_path / "root", program)
    image = str(tmp_path / "root")
    image_document("--fail-on", "missing-library,missing-symbol", image, capsys=capsys)
    libc = next((tmp_path / "root").rglob("libc.so.6"))
    libc.unlink()
    assert run(["image", "--fail-on", "missing-library", image]) == 1
    assert "libc.so.6" in capsys.readouterr().out
    assert run(["image", image]) == 0
    capsys.readouterr()
    assert run(["image", "--fail-on", "everything", image]) == 2
    assert "there are missing-library" in capsys.readouterr().err


def test_text_names_layers_causes_and_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, program = tar(member("lib", b"b" * 9000)), b"p" * 5000
    one = write_layout(tmp_path / "one", base, tar(member("app", program)))
    two = write_layout(
        tmp_path / "two",
        base,
        tar(member("x", b"x")),
        tar(member("app", program), member("lib", b"b" * 9000)),
    )
    document = image_document(str(one), str(two), capsys=capsys)
    sharing = document["sharing"]
    assert sharing["shared_bytes"] == 0  # the second image holds `lib` again, in a layer above
    causes = {item["places"][0]["path"]: item["cause"] for item in sharing["lost"]}
    assert causes == {
        "/lib": "copied by an upper layer that changed only its attributes",
        "/app": "in different layers",
    }
    assert [copy["path"] for copy in document["images"][1]["copied_up"]] == ["/lib"]
    assert run(["image", str(one), str(two)]) == 0
    text = capsys.readouterr().out
    for words in ("1 common layer", "step 0", "step 1", "/app: in different layers", "composefs"):
        assert words in text
    assert run(["image", "-f", "markdown", str(one), str(two)]) == 0
    assert "| --: |" in capsys.readouterr().out.replace("|--:", "| --: ")


@pytest.mark.skipif(not ROOT, reason="overlay mounts need root")
def test_sharing_is_that_of_containers_on_overlay_mounts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two images of one base, each with a copy of a library of its own in its top layer."""
    storage = tmp_path / "overlay2"
    (storage / "l").mkdir(parents=True)
    program = os.path.realpath(shutil.which("cat") or "/bin/cat")
    for number, name in enumerate(("base", "one", "two")):
        diff = storage / name / "diff"
        diff.mkdir(parents=True)
        (storage / name / "link").write_text(f"S{number}")
        (storage / "l" / f"S{number}").symlink_to(f"../{name}/diff")
        if name != "base":
            (storage / name / "lower").write_text("l/S0")
            (diff / "top").write_bytes(b"t" * 20_000)
    placed = copy_program(storage / "base" / "diff", program)
    document = image_document(str(storage / "one"), str(storage / "two"), capsys=capsys)
    base = sum(f.stat().st_size for f in (storage / "base" / "diff").rglob("*") if f.is_file())
    assert document["sharing"]["shared_bytes"] == base
    assert document["sharing"]["lost_bytes"] == 20_000

    script = tmp_path / "mount.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "storage, *names = sys.argv[1:]\n"
        "for name in names:\n"
        "    place = f'{storage}/{name}/merged'; os.mkdir(place)\n"
        "    lower = f'lowerdir={storage}/{name}/diff:{storage}/base/diff'\n"
        "    subprocess.run(['mount', '-t', 'overlay', 'o', '-o', 'ro,' + lower, place],\n"
        "                   check=True)\n"
        "    subprocess.Popen(['chroot', place, *PROGRAM], stdin=subprocess.PIPE)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n".replace("*PROGRAM", repr(program))
    )
    words = ["unshare", "-m", sys.executable, str(script), str(storage), "one", "two"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip("no overlay mounts here")
        try:
            frames = [frames_of(pid, placed) for pid in children(process.pid, program)]
        finally:
            process.kill()
    assert len(frames) == 2
    assert frames[0]
    for path in frames[0].keys() & frames[1].keys():
        common = frames[0][path].keys() & frames[1][path].keys()
        assert {frames[0][path][page] for page in common} == {
            frames[1][path][page] for page in common
        }


def children(parent: int, program: str) -> list[int]:
    """The processes below `parent` that run `program`, once each waits for input."""
    import time

    for _ in range(100):
        found = []
        waiting = [parent]
        while waiting:
            pid = waiting.pop()
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                below = [int(word) for word in file.read().split()]
            waiting += below
            for child in below:
                exe = os.readlink(f"/proc/{child}/exe")
                with open(f"/proc/{child}/wchan") as file:
                    asleep = file.read() not in ("", "0")
                if exe.endswith(os.path.basename(program)) and asleep:
                    found.append(child)
        if len(found) == 2:
            return found
        time.sleep(0.05)
    return found


def frames_of(pid: int, placed: list[str]) -> dict[str, dict[int, int]]:
    """By file and page of it: the frame, of pages that are the file's own."""
    import struct

    result: dict[str, dict[int, int]] = {}
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for line in maps:
            fields = line.split()
            path = fields[5].rpartition("/merged")[2] if len(fields) > 5 else ""
            if path not in placed:
                continue
            start, end = (int(part, 16) for part in fields[0].split("-"))
            for page in range(start >> 12, end >> 12):
                pagemap.seek(page * 8)
                (entry,) = struct.unpack("<Q", pagemap.read(8))
                if entry >> 63 and entry >> 61 & 1:
                    number = page - (start >> 12) + (int(fields[2], 16) >> 12)
                    result.setdefault(path, {})[number] = entry & (1 << 55) - 1
    return result


def image_root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("cat", "ls"):
        copy_program(root, os.path.realpath(shutil.which(name) or f"/bin/{name}"))
    (root / "data").write_text("from the image\n")
    (root / "absolute").symlink_to("/data")
    return root


def test_run_image_sees_the_files_of_the_image(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = image_root(tmp_path)
    subprocess.run(["tar", "-C", str(root), "-cf", f"{tmp_path}/root.tar", "."], check=True)
    cat = os.path.realpath(shutil.which("cat") or "/bin/cat")
    for source in (f"{tmp_path}/root.tar", str(root)):
        assert run(["run", "-q", "--image", source, cat, "/absolute"]) == 0
        assert capfd.readouterr().out == "from the image\n"
    assert run(["run", "-q", "--image", str(root)]) == 2
    assert "starts nothing by itself" in capfd.readouterr().err
    assert run(["run", "-q"]) == 2


def test_what_export_wrote_is_a_layer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place, shell = tmp_path / "exported", "/bin/sh"
    change = f"cd {tmp_path}; echo new > made; rm old; mkdir deep; echo two > deep/file"
    (tmp_path / "old").write_text("old\n")
    (tmp_path / "kept").write_text("kept\n")
    assert run(["run", "-q", "--export", str(place), shell, "-c", change]) == 0
    look = f"cd {tmp_path}; cat made deep/file kept; cat old || echo gone; echo *"
    assert run(["run", "-q", "--layer", str(place), shell, "-c", look]) == 0
    out = capfd.readouterr().out.split("\n")
    assert out[:4] == ["new", "two", "kept", "gone"]
    assert set(out[4].split()) == {"made", "deep", "kept", "exported"}
    assert (tmp_path / "old").exists()


def test_image_with_an_entry_point_is_run_and_costed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = image_root(tmp_path)
    umoci = tool("umoci")
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    for words in (
        ["init", "--layout", str(layout)],
        ["new", "--image", f"{layout}:app"],
        ["unpack", "--rootless", "--image", f"{layout}:app", str(bundle)],
    ):
        subprocess.run([umoci, *words], check=True, capture_output=True, timeout=60)
    shutil.copytree(root, bundle / "rootfs", symlinks=True, dirs_exist_ok=True)
    cat = os.path.realpath(shutil.which("cat") or "/bin/cat")
    settings = ["--config.entrypoint", cat, "--config.cmd", "data"]
    settings += ["--config.workingdir", "/", "--config.user", "12:34"]
    for words in (
        ["repack", "--image", f"{layout}:app", str(bundle)],
        ["config", "--image", f"{layout}:app", *settings],
    ):
        subprocess.run([umoci, *words], check=True, capture_output=True, timeout=60)
    assert run(["run", "-q", "--image", f"{layout}:app"]) == 0
    assert capfd.readouterr().out == "from the image\n"
    assert run(["image", "-f", "json", "--max-private", "1", f"{layout}:app"]) == 1
    cost = json.loads(capfd.readouterr().out)["images"][0]["container"]
    assert cost["ran"]
    assert 10 < cost["private_pages"] < 200
    assert cost["shared_pages"] > 100


def test_a_hostile_image_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_layout(
        tmp_path / "x", tar(directory("a"), link("a/b", "/etc"), member("a/b/passwd", b"x"))
    )
    assert run(["image", str(place)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(place) in captured.err
