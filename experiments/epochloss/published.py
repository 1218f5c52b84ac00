"""What figures 2 and 6 of the paper show, read off the plots: the accuracy on each task, and its error bar."""

from __future__ import annotations

import json
import math
import statistics
from importlib import resources

from clpack.experiments.config import Reference
from clpack.experiments.epochloss.three_steps import ACCURACIES, label

__all__ = ["references"]


def references(figure: str) -> tuple[Reference, ...]:
    """Returns the values of ``"figure2"`` or ``"figure6"``: of each task, and their means over the six tasks.

    The deviation of a mean is what the error bars of the tasks give, taken as independent; one that is hidden behind
    another bar counts as their mean.
    """
    text = resources.files(__package__).joinpath("published.json").read_text()
    return tuple(
        _reference(figure, entry["method"], entry["column"], entry["images"] == "attacked", entry["tasks"])
        for entry in json.loads(text)
        if entry["figure"] == figure
    )


def _reference(figure: str, method: str, column: str, attacked: bool, tasks: list[list[float | None]]) -> Reference:
    by_experience = tuple((mean, std) for mean, std in tasks if mean is not None)
    squares = [std**2 for _, std in by_experience if std is not None]
    return Reference(
        label(method, attacked=attacked),
        column,
        ACCURACIES[attacked],
        mean=statistics.fmean(mean for mean, _ in by_experience),
        std=math.sqrt(statistics.fmean(squares) / len(by_experience)),
        source=f"read off {figure[:-1]} {figure[-1]}: the mean of its six tasks, and the deviation of their error bars",
        by_experience=by_experience,
    )
