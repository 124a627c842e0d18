"""The JSON report obeys the shipped schema, and has the values counted by hand."""

import io
import json
from typing import Any

import jsonschema
import pytest

from samepage.analysis.counting import Scope
from samepage.analysis.sharing import Sharing
from samepage.report.json import document, schema, write
from samepage.snapshot.columns import Snapshot
from tests.analysis.sample import LIBC, sample


def report(snapshot: Snapshot, scope: Scope | None = None) -> Any:
    stream = io.StringIO()
    write(Sharing(snapshot, scope), stream)
    return json.loads(stream.getvalue())


def test_the_schema_is_a_valid_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("snapshot", [sample(), sample("live"), Snapshot.empty()])
@pytest.mark.parametrize("scope", Scope)
def test_every_report_obeys_the_schema(snapshot: Snapshot, scope: Scope) -> None:
    jsonschema.Draft202012Validator(schema()).validate(report(snapshot, scope))


def test_the_schema_refuses_what_it_does_not_know() -> None:
    broken = document(Sharing(sample()))
    broken["processes"][0]["shoe_size"] = 43
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(broken)


def test_every_object_of_the_schema_is_closed_and_described() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object":
                assert "additionalProperties" in node
                for key, value in node.get("properties", {}).items():
                    assert "description" in value or "$ref" in value, key
                assert set(node.get("required", ())) <= set(node.get("properties", ())) or (
                    "properties" not in node
                )
            for value in node.values():
                walk(value)

    walk(schema())


def test_the_numbers_are_those_counted_by_hand() -> None:
    found = report(sample())
    a = found["processes"][0]
    assert (a["pid"], a["argv"], a["exit_code"]) == (1, ["a", "-x"], 0)
    assert (a["minor_faults"], a["major_faults"]) == (12, 1)
    assert (a["rss_pages"], a["pss_pages"], a["uss_pages"]) == (7, 5, 3)
    assert (a["shared_clean_pages"], a["shared_dirty_pages"]) == (3, 1)
    assert (a["private_clean_pages"], a["private_dirty_pages"]) == (2, 1)
    text = a["vmas"][0]
    assert (text["start"], text["perms"], text["file"], text["pss_kib"]) == (0x100000, "r-xp", 0, 8)
    libc = found["files"][0]
    assert (libc["path"], libc["inode"], libc["frames"]) == (LIBC, 100, 5)
    assert libc["frames_by_mapcount"] == {"1": 3, "2": 2}
    assert libc["copied_pages"] == 3
    assert libc["copies"] == [
        {"first_page": 4, "pages": 1, "processes": 2},
        {"first_page": 5, "pages": 1, "processes": 1},
    ]
    assert [by["pid"] for by in libc["mapped_by"]] == [1, 2]
    assert [by["copied_pages"] for by in libc["mapped_by"]] == [1, 2]
    totals = found["totals"]
    assert (totals["virtual_pages"], totals["frames"], totals["saved_pages"]) == (28, 13, 4)
    assert totals["pss_pages"] == totals["frames"]
    assert found["lost_sharing"][0]["files"][1]["cause"] == "container"
    assert found["unimplemented_syscalls"] == {"io_uring_setup": 2}
    assert found["meta"]["kernel"] == "6.18.0"
