"""Classes of named fields, as `dataclasses` has them, at a twentieth of their start-up cost.

Half of what `samepage run true` took was not the program: 49 data classes at 0.3 to 0.8 ms
each (every method of each is compiled from text when the class is made) and 18 ms to import
`dataclasses`, which needs `inspect`. A tool that people run as a prefix of other commands
must start faster than that. So the modules that every `run` and every `live` import use
`record` in place of `dataclass(slots=True)`; all others use `dataclasses`.

A record's methods are shared closures over its field names. Only `__init__` is compiled, and
only for the class of which many instances are made: to compile one takes 0.1 ms, as long as to
make 40 instances without. Of the kernel's records a short program makes a few each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform, overload

    T = TypeVar("T")

FIELDS = "__record_fields__"
"""The class attribute that holds the names of a record's fields, bases' first."""
_PATIENCE = 40
"""How many instances are made before their `__init__` is compiled."""


class FrozenRecordError(AttributeError):
    """Something tried to change a field of a frozen record."""


class _Field:
    """What `field` says of one field: its default's maker, and whether `__init__` takes it."""

    __slots__ = ("default_factory", "init")

    def __init__(self, default_factory: Callable[[], object] | None, init: bool) -> None:
        self.default_factory = default_factory
        self.init = init


if TYPE_CHECKING:

    @overload
    def field(*, default_factory: Callable[[], T]) -> T: ...
    @overload
    def field(*, init: bool) -> Any: ...


def field(*, default_factory: Callable[[], T] | None = None, init: bool = True) -> Any:
    """A field whose default is made anew for each instance, or that `__init__` does not take."""
    return _Field(default_factory, init)


if TYPE_CHECKING:

    @overload
    @dataclass_transform(field_specifiers=(field,))
    def record(cls: type[T], /) -> type[T]: ...
    @overload
    @dataclass_transform(field_specifiers=(field,))
    def record(*, frozen: bool = False, eq: bool = True) -> Callable[[type[T]], type[T]]: ...


def record(
    cls: type[T] | None = None, /, *, frozen: bool = False, eq: bool = True
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class of its annotated fields, with slots: the decorator `@record`.

    The rules are those of `dataclass(slots=True)`: fields in the order of their annotations,
    those of a base class first; `__post_init__` runs last; methods that the class defines
    stay. With `eq` two instances of the same class are equal if their fields are, and have
    no hash unless `frozen`, which also refuses assignments (`FrozenRecordError`).
    """
    if cls is None:
        return partial(_make, frozen=frozen, eq=eq)
    made: type[T] = _make(cls, frozen, eq)
    return made


def _make(cls: Any, frozen: bool, eq: bool) -> Any:
    own = tuple(cls.__annotations__)
    inherited: tuple[str, ...] = getattr(cls, FIELDS, ())
    names = (*inherited, *(name for name in own if name not in inherited))
    defaults: dict[str, object] = dict(getattr(cls, "__record_defaults__", {}))
    body = dict(cls.__dict__)
    for name in own:
        if name in body:
            defaults[name] = body.pop(name)
    for name in ("__dict__", "__weakref__"):
        body.pop(name, None)
    body[FIELDS] = names
    body["__record_defaults__"] = defaults
    body["__slots__"] = tuple(name for name in own if name not in inherited)
    body["__match_args__"] = names
    body.setdefault("__repr__", _repr)
    if eq:
        _add_comparison(body, names, frozen)
    if frozen:
        body["__setattr__"] = body["__delattr__"] = _refuse
    made: Any = type(cls)(cls.__name__, cls.__bases__, body)
    if "__init__" not in body:
        made.__init__ = _first_init(made, names, defaults, frozen)
    return made


def _add_comparison(body: dict[str, Any], names: tuple[str, ...], frozen: bool) -> None:
    values = attrgetter(*names)

    def __eq__(self: object, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return bool(values(self) == values(other))

    def __hash__(self: object) -> int:
        return hash(values(self))

    body.setdefault("__eq__", __eq__)
    body.setdefault("__hash__", __hash__ if frozen else None)


def _repr(self: object) -> str:
    values = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields(self))
    return f"{type(self).__qualname__}({values})"


def _refuse(self: object, name: str, *value: object) -> None:
    raise FrozenRecordError(f"cannot change {name} of a frozen {type(self).__name__}")


def _first_init(
    cls: type, names: tuple[str, ...], defaults: dict[str, object], frozen: bool
) -> Callable[..., None]:
    """The `__init__` of the first instances. It puts the compiled one in its own place when
    `_PATIENCE` of them have been made, and where the arguments are wrong, to say how."""
    made = 0
    rules: _Rules | None = None  # worked out when they are needed: most classes make none

    def __init__(self: object, *args: object, **kwargs: object) -> None:
        nonlocal made, rules
        made += 1
        rules = rules or _Rules(names, defaults)
        values = rules.bind(args, kwargs)
        if made > _PATIENCE or values is None:
            real = _compile_init(cls, rules, frozen)
            cls.__init__ = real  # type: ignore[misc]
            real(self, *args, **kwargs)
            return
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if hasattr(self, "__post_init__"):
            self.__post_init__()

    return __init__


class _Rules:
    """Which arguments the `__init__` of a record takes, and what the others become."""

    def __init__(self, names: tuple[str, ...], defaults: dict[str, object]) -> None:
        self.taken = [name for name in names if _is_taken(defaults.get(name))]
        self.values: dict[str, object] = {}
        self.factories: dict[str, Callable[[], object]] = {}
        self._known = set(self.taken)
        self._required = self._known - defaults.keys()
        for name, default in defaults.items():
            if not isinstance(default, _Field):
                self.values[name] = default
            elif default.default_factory is not None:
                self.factories[name] = default.default_factory

    def bind(self, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object] | None:
        """The fields' values; None if the arguments are wrong."""
        given = dict(zip(self.taken, args, strict=False), **kwargs)
        if len(given) != len(args) + len(kwargs) or not (
            self._required <= given.keys() <= self._known
        ):
            return None
        made = {name: make() for name, make in self.factories.items() if name not in given}
        return {**self.values, **made, **given}


def _is_taken(default: object) -> bool:
    """Whether `__init__` has a parameter for a field with this default, or with none."""
    return not isinstance(default, _Field) or default.init


def _compile_init(cls: type, rules: _Rules, frozen: bool) -> Callable[..., None]:
    parameters, statements = ["self"], []
    scope: dict[str, Any] = {"_store": object.__setattr__, "_missing": object()}
    for name in rules.taken:
        parameter = value = name
        if name in rules.values:
            scope[f"_{name}"] = rules.values[name]
            parameter = f"{name}=_{name}"
        elif name in rules.factories:
            scope[f"_{name}"] = rules.factories[name]
            parameter = f"{name}=_missing"
            value = f"_{name}() if {name} is _missing else {name}"
        parameters.append(parameter)
        statements.append(
            f"_store(self, {name!r}, {value})" if frozen else f"self.{name} = {value}"
        )
    if hasattr(cls, "__post_init__"):
        statements.append("self.__post_init__()")
    text = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(statements or ["pass"])
    exec(text, scope)
    function: Callable[..., None] = scope["__init__"]
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    return function


def fields(record: object) -> tuple[str, ...]:
    """The names of the fields of a record or of its class, in their order."""
    names: tuple[str, ...] = getattr(record, FIELDS)
    return names


def replace(record: T, /, **changes: object) -> T:
    """A copy of a record with some fields changed. Raises `TypeError` for an unknown field."""
    values = {name: getattr(record, name) for name in fields(record)}
    return type(record)(**{**values, **changes})
