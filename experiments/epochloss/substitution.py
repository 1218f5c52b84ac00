"""The substitution comparison on any stream: the first tasks train on synthetic images, tests are on natural ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from clpack.experiments.config import Column, Component, Experiment, Reference
from clpack.experiments.epochloss.three_steps import (
    ACCURACIES,
    METHODS,
    NETWORK,
    PAPER,
    PERCENTS,
    SMOKE,
    TRAINING,
    row,
    smoke_rows,
)

__all__ = ["substitution_table"]


def substitution_table(
    name: str,
    title: str,
    stream: Component,
    *,
    n_tasks: int,
    presets: Mapping[str, Mapping[str, Any]],
    pretrained: bool = False,
    references: Sequence[Reference] = (),
) -> Experiment:
    """Returns the table: methods, each with three rates of removal, by the number of synthetic tasks.

    Args:
        name: of the table.
        title: of the table.
        stream: a stream that takes the option ``synthetic_tasks``; it is that of the column without synthetic tasks.
        n_tasks: its number of tasks.
        presets: its presets; ``"smoke"`` has only what comes on top of the usual one.
        pretrained: whether the first task starts from weights trained on Tiny-ImageNet. Default: False.
        references: values to compare with.
    """
    removals = [("No removal", None), *((method, percent) for percent in PERCENTS for method in METHODS[1:])]
    smoke = {"rows": smoke_rows(40), "columns": ("1 synthetic",), **presets.get("smoke", {})}
    return Experiment(
        name=name,
        title=title,
        paper=PAPER,
        rows=tuple(
            row(method, attacked=attacked, percent=percent, pretrained=pretrained)
            for attacked in (False, True)
            for method, percent in removals
        ),
        columns=tuple(
            Column(
                f"{count} synthetic",
                replace(stream, options={**stream.options, "synthetic_tasks": count}) if count else stream,
                NETWORK,
                TRAINING,
                x=count,
            )
            for count in range(n_tasks + 1)
        ),
        seeds=(1, 2, 3),
        references=tuple(references),
        presets={**presets, "smoke": {**SMOKE, **smoke}},
        metrics=(*ACCURACIES, "synthetic_learning_accuracy"),
        x_label="tasks with synthetic training images",
    )
