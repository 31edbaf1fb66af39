"""Outcome: of an operation that can fail, for who would rather ask than catch. ``Result[str, OSError]`` is either.

::

    match operation():
        case Success(value): ...
        case Error(error): ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeAlias, TypeVar

T = TypeVar("T")
E = TypeVar("E")
U = TypeVar("U")
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Success(Generic[T]):
    """It went well, and this came of it: any `value`, None included."""

    value: T

    @property
    def error(self) -> NoReturn:
        """There is none: raises `ValueError`."""
        raise ValueError(f"{self} has no error")

    def unwrap(self) -> T:
        """The value."""
        return self.value

    def unwrap_or(self, other: U) -> T | U:
        """The value."""
        return self.value

    def map(self, function: Callable[[T], U]) -> Success[U]:
        """What `function` makes of the value."""
        return Success(function(self.value))

    def map_error(self, function: Callable[[E], F]) -> Success[T]:
        """This; `function` is not called."""
        return self


@dataclass(frozen=True, slots=True)
class Error(Generic[E]):
    """It failed, for the reason `error`."""

    error: E

    @property
    def value(self) -> NoReturn:
        """There is none: raises `ValueError`."""
        self.unwrap()

    def unwrap(self) -> NoReturn:
        """There is no value: raises `ValueError`, caused by the error where that is an exception."""
        cause = self.error if isinstance(self.error, BaseException) else None
        raise ValueError(f"{self} has no value") from cause

    def unwrap_or(self, other: U) -> U:
        """`other`."""
        return other

    def map(self, function: Callable[[T], U]) -> Error[E]:
        """This; `function` is not called."""
        return self

    def map_error(self, function: Callable[[E], F]) -> Error[F]:
        """What `function` makes of the error."""
        return Error(function(self.error))


Result: TypeAlias = Success[T] | Error[E]
