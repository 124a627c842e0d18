"""An attribute that is computed when it is first asked for, and kept.

It is `functools.cached_property` without the lock that Python 3.11 takes for it, which
costs as much as reading a small table.
"""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):
    """Makes a method without arguments such an attribute. Its class needs a `__dict__`."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> T | Self:
        if instance is None:
            return self
        value = self._compute(instance)
        # Found before this descriptor from now on, since it has no `__set__`.
        instance.__dict__[self._name] = value
        return value
