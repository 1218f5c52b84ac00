"""Scores as running quantities: ``O(N)`` numbers, updated by one presentation at a time.

Scoring a recorded trace and scoring while training both go through these classes, hence the same numbers.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FirstLearned",
    "ForgettingEvents",
    "IncreaseKind",
    "LossIncrease",
    "Mean",
    "NeverLearned",
    "PresentationsNeeded",
    "Running",
    "over_presentations",
    "warn_undefined",
]

Rows = slice | NDArray[np.int64]
Scores = NDArray[np.float64]
IncreaseKind = Literal["running_minimum", "consecutive"]
NeverLearned = Literal["inf", "npresentations"] | float

_BLOCK = 1 << 14  # samples whose running numbers stay in the processor's cache


class Running(ABC):
    """A score of every sample, from the presentations seen so far."""

    needed: ClassVar[int] = 1
    """The number of presentations below which a sample has no score."""

    @abstractmethod
    def update(self, rows: Rows, position: int | NDArray[np.int64], values: NDArray[Any]) -> None:
        """Takes one more presentation of each of the samples ``rows``, none of them twice.

        Args:
            rows: which samples.
            position: how many presentations each of them had before.
            values: what was recorded, a number for each of them.
        """

    @abstractmethod
    def result(self, length: NDArray[np.int64]) -> Scores:
        """Returns the scores, given the number of updates of every sample."""


class Mean(Running):
    """The mean of the values."""

    def __init__(self, n_samples: int) -> None:
        self.total = np.zeros(n_samples)

    def update(self, rows: Rows, position: int | NDArray[np.int64], values: NDArray[Any]) -> None:
        self.total[rows] += values

    def result(self, length: NDArray[np.int64]) -> Scores:
        means: Scores = np.divide(self.total, length, out=np.full(len(length), np.nan), where=length > 0)
        return means


class LossIncrease(Running):
    """The largest rise of a loss above its own running minimum, or above its previous value."""

    needed = 2

    def __init__(self, n_samples: int, kind: IncreaseKind = "running_minimum") -> None:
        if kind not in get_args(IncreaseKind):
            raise ValueError(f"kind must be 'running_minimum' or 'consecutive', got {kind!r}")
        self.kind = kind
        self.reference = np.full(n_samples, np.inf)  # the first presentation is no rise
        self.rise = np.zeros(n_samples)

    def update(self, rows: Rows, position: int | NDArray[np.int64], values: NDArray[Any]) -> None:
        losses, reference = values.astype(np.float64), self.reference[rows]
        with np.errstate(invalid="ignore"):  # from an infinite loss to an infinite loss: no rise
            self.rise[rows] = np.fmax(self.rise[rows], losses - reference)
        if self.kind == "consecutive":
            self.reference[rows] = np.where(np.isnan(reference), np.nan, losses)  # NaN once is NaN for good
        else:
            self.reference[rows] = np.minimum(reference, losses)

    def result(self, length: NDArray[np.int64]) -> Scores:
        return np.where(np.isnan(self.reference) | (length < self.needed), np.nan, self.rise)


class ForgettingEvents(Running):
    """How often a correct sample was found wrong at its next presentation."""

    def __init__(self, n_samples: int, never_learned: NeverLearned = "inf") -> None:
        if never_learned not in ("inf", "npresentations") and not (
            isinstance(never_learned, int | float) and never_learned >= 0
        ):
            raise ValueError(
                f"never_learned must be 'inf', 'npresentations' or a number of events, got {never_learned!r}"
            )
        self.never_learned = never_learned
        self.events = np.zeros(n_samples, dtype=np.int64)
        self.learned = np.zeros(n_samples, dtype=bool)
        self.previous = np.zeros(n_samples, dtype=bool)

    def update(self, rows: Rows, position: int | NDArray[np.int64], values: NDArray[Any]) -> None:
        self.events[rows] += self.previous[rows] & ~values
        self.learned[rows] |= values
        self.previous[rows] = values

    def result(self, length: NDArray[np.int64]) -> Scores:
        never = length.max(initial=0) if self.never_learned == "npresentations" else float(self.never_learned)
        return np.where(length < self.needed, np.nan, np.where(self.learned, self.events, never))


class FirstLearned(Running):
    """The position of the first correct presentation."""

    def __init__(self, n_samples: int) -> None:
        self.first = np.full(n_samples, np.nan)

    def update(self, rows: Rows, position: int | NDArray[np.int64], values: NDArray[Any]) -> None:
        first = self.first[rows]
        self.first[rows] = np.where(np.isnan(first) & values, position, first)

    def result(self, length: NDArray[np.int64]) -> Scores:
        return self.first.copy()


class PresentationsNeeded(Running):
    """The number of presentations up to the last wrong one."""

    def __init__(self, n_samples: int) -> None:
        self.count = np.zeros(n_samples)

    def update(self, rows: Rows, position: int | NDArray[np.int64], values: NDArray[Any]) -> None:
        self.count[rows] = np.where(values, self.count[rows], position + 1)

    def result(self, length: NDArray[np.int64]) -> Scores:
        return np.where(length < self.needed, np.nan, self.count)


def over_presentations(
    running: Callable[[int], Running],
    values: NDArray[Any],
    length: NDArray[np.int64],
    *,
    window: int | None = None,
    interval: int = 1,
) -> Scores:
    """Runs over a trace in blocks of samples, so that the memory beside the trace is small.

    Args:
        running: makes the running score of so many samples.
        values: array of shape ``(T, N)``.
        length: int64 array of shape ``(N,)``, the rows that count for each sample, at most ``T``.
        window: how many of the last presentations of each sample are used. Default: all.
        interval: every how many presentations one is used, from the first in the window on.

    Returns:
        Float64 array of shape ``(N,)``.
    """
    n_presentations, n_samples = values.shape
    scores = np.empty(n_samples)
    for begin in range(0, n_samples, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        end = length[block]
        start = np.zeros_like(end) if window is None else np.maximum(end - window, 0)
        used = -((start - end) // interval)
        all_used = bool((used == n_presentations).all())
        state = running(len(end))
        for position in range(n_presentations):
            rows: Rows = slice(None)
            if not all_used:
                rows = np.flatnonzero((start <= position) & (position < end) & ((position - start) % interval == 0))
            state.update(rows, position, values[position, block][rows])
        scores[block] = state.result(used)
    return scores


def warn_undefined(scores: Scores, measured: NDArray[np.bool_], channel: str, *, stacklevel: int) -> None:
    """Warns of samples that were measured, but have no score because a recorded value is NaN."""
    broken = np.flatnonzero(np.isnan(scores) & measured)
    if len(broken):
        warnings.warn(
            f"the {channel} of {len(broken)} samples is NaN at some presentation (samples {broken[:5].tolist()}, ...): "
            "their score is NaN, so selection keeps them; look for a diverged training run",
            stacklevel=stacklevel + 1,
        )
