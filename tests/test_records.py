"""Records behave as `dataclasses` do; the data class of the same text is the oracle."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepage.records import field, fields, record, replace


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


@given(st.lists(st.integers(), min_size=3, max_size=3), st.booleans(), st.booleans())
def test_construction_equality_hash_and_repr_are_those_of_a_data_class(
    values: list[int], frozen: bool, eq: bool
) -> None:
    ours, theirs = both("Point", {"x": ..., "y": 7, "z": list}, frozen=frozen, eq=eq)
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
    assert ours(1).z is not ours(1).z


@given(
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from(["x", "y", "z", "self", "other"]), st.integers()),
)
def test_arguments_are_taken_and_refused_as_a_data_class_does(
    positional: list[int], named: dict[str, int]
) -> None:
    ours, theirs = both("Point", {"x": ..., "y": 7, "z": list})
    try:
        oracle = theirs(*positional, **named)
    except TypeError:
        with pytest.raises(TypeError):
            ours(*positional, **named)
    else:
        assert repr(ours(*positional, **named)) == repr(oracle)


@record(frozen=True)
class Range:
    """From `start` to `end`."""

    start: int
    end: int = 0

    def length(self) -> int:
        return self.end - self.start


@record
class Counted:
    """A field whose default is made anew."""

    values: list[int] = field(default_factory=list)


def test_frozen_records_refuse_changes() -> None:
    span = Range(1, 2)
    with pytest.raises(AttributeError, match="start"):
        span.start = 5  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del span.start
    assert span == Range(1, 2)


def test_there_is_no_attribute_but_the_fields() -> None:
    with pytest.raises(AttributeError):
        Counted([1]).other = 1  # type: ignore[attr-defined]


def test_methods_docstring_and_the_order_of_fields_stay() -> None:
    assert Range(1, 4).length() == 3
    assert Range.__doc__ == "From `start` to `end`."
    assert fields(Range) == fields(Range(1)) == ("start", "end")


def test_replace_makes_a_changed_copy() -> None:
    span = Range(1, 2)
    assert replace(span, end=9) == Range(1, 9)
    assert span == Range(1, 2)
    with pytest.raises(TypeError):
        replace(span, middle=1)
