"""The documents are true: examples run, commands, targets, files and links exist."""

import importlib
import json
import pathlib
import re
import subprocess
import sys

import pytest

from samepage.cli.main import COMMANDS
from samepage.report.json import schema

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXAMPLES = [(str(p.relative_to(ROOT)), c) for p in DOCUMENTS for c in PYTHON.findall(p.read_text())]


@pytest.mark.parametrize(("name", "code"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_python_examples_run(name: str, code: str) -> None:
    if code.startswith(">>> "):  # a session: what it prints depends on the machine
        lines = [line[4:] for line in code.splitlines() if line.startswith((">>> ", "... "))]
        code = "\n".join(lines)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    if name == "README.md":
        assert re.search(r"b'Linux\\n' [1-9]\d* pages of libc are in the same", result.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_targets_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    code = "\n".join(a or b for a, b in re.findall(r"`([^`\n]+)`|^ {4}(\S.*)$", text, re.MULTILINE))
    for command in re.findall(r"^(?:\.venv/bin/)?samepage ([a-z]+)", code, re.MULTILINE):
        assert command in COMMANDS, command
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"^make ([a-z0-9-]+)", code, re.MULTILINE):
        assert target in targets, target


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    paths = re.findall(r"`((?:samepage|tests|docs|corpus|fuzz|benchmarks)/[a-z0-9_./]*)`", text)
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_package_is_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for package in sorted(p.parent.name for p in ROOT.glob("samepage/*/__init__.py")):
        assert f"samepage/{package}" in text
    contract = re.search(r"layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert contract is not None
    layers = re.findall(r"samepage\.(\w+)", contract[1])
    house = text[text.index("```") : text.index("The contract")]
    positions = [house.index(f" {layer} ") for layer in layers]
    assert positions == sorted(positions)


def test_functions_that_the_walks_name_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    steps = re.findall(r"([A-Za-z_][\w.]*) +((?:\w+/)+\w+\.py) ", text)
    assert len(steps) > 30
    for name, path in steps:
        source = (ROOT / "samepage" / path).read_text()
        for part in name.split("."):
            assert re.search(rf"^\s*(def|class) {part}\b", source, re.MULTILINE), (name, path)
    for path in re.findall(r"\b(?:\w+/)+\w+\.py\b", text):
        assert (ROOT / path).exists() or (ROOT / "samepage" / path).exists(), path


def test_functions_in_the_way_of_a_fault_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    way = text[text.index("## The way of a page fault") : text.index("## The way of an execve")]
    fault = importlib.import_module("samepage.kernel.mm.fault")
    for function in re.findall(r"\b(do_\w+|handle_mm_fault)\b", way):
        assert hasattr(fault, function), function


def test_the_keys_of_the_json_report_are_in_its_schema() -> None:
    known = set(re.findall(r"\"(\w+)\": ?\{", json.dumps(schema())))
    text = (ROOT / "docs/json-report.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    keys = [key for row in rows for key in re.findall(r"`([\w.\[\]]+)`", row.split("|")[1])]
    assert len(keys) > 10
    for key in keys:
        assert set(key.replace("[]", "").strip(".").split(".")) <= known, key
