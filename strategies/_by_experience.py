"""Numbers that may differ from experience to experience."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, TypeVar

__all__ = ["Number", "check_entries", "check_numbers", "entries", "entry_of"]

Number = TypeVar("Number", int, float)


def entries(value: Number | Sequence[Number]) -> Sequence[Number]:
    """Returns the numbers that were given: one for all experiences, or one for each after the first."""
    return value if isinstance(value, Sequence) else (value,)


def entry_of(value: Number | Sequence[Number], experience: Any) -> Number:
    """Returns the number of an experience. The first one, should it come again, has that of the second."""
    return value[max(_whole(experience).current_experience - 1, 0)] if isinstance(value, Sequence) else value


def check_numbers(name: str, value: Any, *, integer: bool = False) -> None:
    """Raises unless a value is a number, or a sequence of numbers.

    Raises:
        TypeError: if it is not.
    """
    kind = numbers.Integral if integer else numbers.Real
    if not all(isinstance(number, kind) and not isinstance(number, bool) for number in entries(value)):
        what = "an integer" if integer else "a number"
        raise TypeError(f"{name} must be {what}, or a sequence with one for each experience, got {value!r}")


def check_entries(experience: Any, **values: Any) -> None:
    """Raises unless there is one number, or as many as the stream has experiences after the first.

    Args:
        experience: one of the stream.
        values: by the name of the argument.

    Raises:
        ValueError: if a sequence is too short or too long.
    """
    for name, value in values.items():
        if not isinstance(value, Sequence):
            continue
        stream = _whole(experience).origin_stream  # which may be a part of that of the benchmark
        expected = len(stream.benchmark.streams[stream.name]) - 1
        if len(value) != expected:
            raise ValueError(
                f"{name} must be one number, or {expected}, one for each experience after the first, got {len(value)}: "
                f"{list(value)}"
            )


def _whole(experience: Any) -> Any:
    return getattr(experience, "origin_experience", experience)  # of the parts of an online stream
