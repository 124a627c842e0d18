"""Records behave as `dataclasses` do; the data class of the same text is the oracle."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepage import records
from samepage.records import FrozenRecordError, field, record, replace


def both(name: str, body: dict[str, Any], **options: bool) -> tuple[Any, Any]:
    """The record and the data class (with slots) of one class body."""
    annotations = dict.fromkeys(body, "object")
    defaults = {name: default for name, default in body.items() if default is not ...}
    factory = {
        name: dataclasses.field(default_factory=default) if callable(default) else default
        for name, default in defaults.items()
    }
    ours = {
        name: field(default_factory=default) if callable(default) else default
        for name, default in defaults.items()
    }
    return (
        record(**options)(type(name, (), {"__annotations__": annotations, **ours})),
        dataclasses.dataclass(slots=True, **options)(
            type(name, (), {"__annotations__": annotations, **factory})
        ),
    )


@given(st.lists(st.integers(), min_size=3, max_size=3), st.booleans(), st.booleans(), st.booleans())
def test_construction_equality_hash_and_repr_are_those_of_a_data_class(
    values: list[int], frozen: bool, eq: bool, compiled: bool
) -> None:
    ours, theirs = both("Point", {"x": ..., "y": 7, "z": list}, frozen=frozen, eq=eq)
    first = ours.__init__
    for _ in range(50 if compiled else 0):
        ours(1)
    assert (ours.__init__ is not first) == compiled
    for arguments in (values[:1], values[:2], values):
        mine, oracle = ours(*arguments), theirs(*arguments)
        assert (mine.x, mine.y, mine.z) == (oracle.x, oracle.y, oracle.z)
        assert repr(mine) == repr(oracle)
        assert (mine == ours(*arguments)) == (oracle == theirs(*arguments))
        assert mine != oracle
    assert (ours.__hash__ is None) == (theirs.__hash__ is None)
    if frozen and eq:
        assert hash(ours(*values)) == hash(theirs(*values))
    assert ours.__slots__ == theirs.__slots__
    assert ours.__match_args__ == theirs.__match_args__
    assert ours(1).z is not ours(1).z


@pytest.mark.parametrize("arguments", [(), (1, 2, 3, 4)])
def test_wrong_arguments_are_a_type_error(arguments: tuple[int, ...]) -> None:
    ours, _ = both("Point", {"x": ..., "y": 7})
    for _ in range(2):  # the first mistake compiles `__init__`
        with pytest.raises(TypeError):
            ours(*arguments)
    with pytest.raises(TypeError):
        ours(1, unknown=2)


@record(frozen=True)
class Range:
    """From `start` to `end`."""

    start: int
    end: int = 0

    def length(self) -> int:
        return self.end - self.start


@record(frozen=True)
class NamedRange(Range):
    """A base's fields come first."""

    name: str = ""


@record
class Counted:
    """A field that `__init__` does not take, set by `__post_init__`."""

    values: list[int] = field(default_factory=list)
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(self.values)


def test_frozen_records_refuse_changes() -> None:
    span = Range(1, 2)
    with pytest.raises(FrozenRecordError, match="start"):
        span.start = 5  # type: ignore[misc]
    with pytest.raises(FrozenRecordError):
        del span.start
    assert span == Range(1, 2)


def test_there_is_no_attribute_but_the_fields() -> None:
    with pytest.raises(AttributeError):
        Counted([1]).other = 1  # type: ignore[attr-defined]


def test_methods_and_docstring_stay_and_a_base_comes_first() -> None:
    named = NamedRange(1, 4, "x")
    assert (named.length(), named.name) == (3, "x")
    assert Range.__doc__ == "From `start` to `end`."
    assert records.fields(NamedRange) == ("start", "end", "name")
    assert named != Range(1, 4)
    assert Range(1, 4) == Range(1, 4)


def test_post_init_runs_last() -> None:
    assert Counted([1, 2]).total == 3
    assert Counted().total == 0
    with pytest.raises(TypeError):
        Counted([1], 3)  # type: ignore[call-arg]


def test_replace_makes_a_changed_copy() -> None:
    span = Range(1, 2)
    assert replace(span, end=9) == Range(1, 9)
    assert span == Range(1, 2)
    with pytest.raises(TypeError):
        replace(span, middle=1)
