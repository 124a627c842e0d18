"""Classes of named fields, as `dataclasses` has them, at a twentieth of their start-up cost.

`dataclasses` compiles every method of each class from text, 0.3 to 0.8 ms a class, and its
import takes 18 ms, since it needs `inspect`: for the 49 classes of `samepage run true` that is
half of the time. So the modules that every `run`, `live` and `link` import use `record` in place
of `dataclass(slots=True)`; all others use `dataclasses`. Nothing is compiled here: methods are
closures over the names of the fields, and an instance costs 1 to 2 microseconds instead of 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform, overload

    T = TypeVar("T")


class _Factory:
    """In place of a default: what makes one for each instance."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """A field whose default is made anew for each instance."""
    return _Factory(default_factory)  # type: ignore[return-value]


if TYPE_CHECKING:

    @overload
    @dataclass_transform(field_specifiers=(field,))
    def record(cls: type[T], /) -> type[T]: ...
    @overload
    @dataclass_transform(field_specifiers=(field,))
    def record(*, frozen: bool = False, eq: bool = True) -> Callable[[type[T]], type[T]]: ...


def record(cls: Any = None, /, *, frozen: bool = False, eq: bool = True) -> Any:
    """Make a class of its annotated fields, with slots: the decorator `@record`.

    The rules are those of `dataclass(slots=True)`, without inheritance of fields. With `eq` two
    instances of the class are equal if their fields are, and have no hash unless `frozen`,
    which also refuses assignments (`AttributeError`). Methods that the class defines stay.
    """
    if cls is None:
        return partial(record, frozen=frozen, eq=eq)
    names = tuple(cls.__annotations__)
    body = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    defaults = {name: body.pop(name) for name in names if name in body}
    methods: dict[str, Any] = {"__repr__": _repr}
    if eq:
        values = attrgetter(*names)
        methods["__eq__"] = lambda a, b: (
            values(a) == values(b) if a.__class__ is b.__class__ else NotImplemented
        )
        methods["__hash__"] = (lambda self: hash(values(self))) if frozen else None
    if frozen:
        methods["__setattr__"] = methods["__delattr__"] = _refuse
    made: Any = type(cls)(cls.__name__, cls.__bases__, {**methods, **body, "__slots__": names})
    if "__init__" not in body:
        made.__init__ = _constructor(made, names, defaults)
    return made


def _constructor(cls: type, names: tuple[str, ...], defaults: dict[str, Any]) -> Any:
    stores = {name: vars(cls)[name].__set__ for name in names}
    factories = {name: d.make for name, d in defaults.items() if d.__class__ is _Factory}

    def __init__(self: object, /, *args: object, **kwargs: object) -> None:
        values = {**defaults, **dict(zip(names, args)), **kwargs}  # noqa: B905
        given = len(args) + len(kwargs)
        if values.keys() != stores.keys() or given > len({*names[: len(args)], *kwargs}):
            raise TypeError(f"{cls.__name__}({', '.join(names)}): called with {args}, {kwargs}")
        for name, make in factories.items():
            if values[name] is defaults[name]:
                values[name] = make()
        for name, value in values.items():
            stores[name](self, value)

    return __init__


def _repr(self: Any) -> str:
    values = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields(self))
    return f"{type(self).__qualname__}({values})"


def _refuse(self: object, name: str, *value: object) -> None:
    raise AttributeError(f"cannot change {name} of a frozen {type(self).__name__}")


def fields(record: Any) -> tuple[str, ...]:
    """The names of the fields of a record or of its class, in their order."""
    names: tuple[str, ...] = record.__slots__
    return names


def replace(record: T, /, **changes: object) -> T:
    """A copy of a record with some fields changed. Raises `TypeError` for an unknown field."""
    return type(record)(**{**{name: getattr(record, name) for name in fields(record)}, **changes})
