"""The main table on any data set: test accuracy of each method at the same number of stored numbers for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clpack.experiments.condensation.protocol import (
    METRICS,
    PAPER,
    SHORT,
    SHORT_MTT,
    SMOKE,
    SMOKE_MTT,
    TRAINING,
    Method,
    condensed_row,
    raw_row,
    whole_stream,
)
from clpack.experiments.config import Column, Component, Experiment, Reference
from clpack.presets import published_evaluation

__all__ = ["equal_memory_table"]

_SOURCE = "the authors of DC, DSA and DM, and two later comparisons; the values of the low-rank forms could not be read"
_METHODS: tuple[Method, ...] = ("dc", "dsa", "dm")
_BUDGETS = {"1 per class": 1, "10 per class": 10, "50 per class": 50}


def equal_memory_table(
    dataset: str,
    title: str,
    published: Mapping[str, Sequence[float | tuple[float, float] | None]],
    *,
    short: Mapping[str, Any] | None = None,
) -> Experiment:
    """Returns the table of a data set.

    Args:
        dataset: a name in :data:`clpack.experiments.condensation.protocol.DATA`.
        title: of the table.
        published: published accuracies in percent, with their standard deviations if these are known, by row, for 1, 10
            and 50 images per class; None where there is none. With results of MTT there are rows of it.
        short: further settings of the presets ``short`` of the table.
    """
    augmentation = published_evaluation(dataset, "dm")["augmentation"]
    rows = [raw_row("Random", "random", augmentation), raw_row("Herding", "herding", augmentation)]
    methods = (*_METHODS, "mtt") if "MTT" in published else _METHODS
    rows += [
        condensed_row(dataset, method, _BUDGETS, low_rank=low_rank) for method in methods for low_rank in (False, True)
    ]
    columns = tuple(
        Column(
            column,
            whole_stream(dataset),
            Component("ConvNet"),
            {**TRAINING, "strategy.images_per_class": images_per_class},
            x=images_per_class,
        )
        for column, images_per_class in _BUDGETS.items()
    )
    references = [
        Reference(row, column, "average_accuracy", mean, std, _SOURCE)
        for row, values in published.items()
        for column, value in zip(_BUDGETS, values, strict=True)
        if value is not None
        for mean, std in [value if isinstance(value, tuple) else (value, None)]
    ]
    short, smoke = short or {}, SMOKE_MTT if "MTT" in published else SMOKE
    presets = {
        "short": {
            **SHORT,
            "rows": ("Random", "Herding", "DM", "LoDM"),
            "columns": ("1 per class", "10 per class"),
            **short,
        },
        "short_dc": {**SHORT, "rows": ("DC", "LoDC"), "columns": ("1 per class",), **short},
        "smoke": {**smoke, "columns": ("1 per class",)},
    }
    if "MTT" in published:
        presets["short_mtt"] = {**SHORT_MTT, "rows": ("MTT", "LoMTT"), "columns": ("1 per class",), **short}
    return Experiment(
        name=f"condensation/{dataset}",
        title=title,
        paper=PAPER,
        rows=tuple(rows),
        columns=columns,
        seeds=tuple(range(1, 101)),
        references=tuple(references),
        presets=presets,
        metrics=METRICS,
        x_label="memory of a class (plain images)",
    )
