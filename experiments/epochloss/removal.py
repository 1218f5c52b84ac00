"""The removal comparison on any stream: a table of methods by how much of each task they remove."""

from __future__ import annotations

from collections.abc import Mapping
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

__all__ = ["removal_table"]


def removal_table(
    name: str,
    title: str,
    stream: Component,
    *,
    presets: Mapping[str, Mapping[str, Any]],
    pretrained: bool = False,
    references: tuple[Reference, ...] = (),
) -> Experiment:
    """Returns the table; on "No removal" all columns are one and the same cell.

    Args:
        name: of the table.
        title: of the table.
        stream: with natural images in every task.
        presets: its presets; ``"smoke"`` has only what comes on top of the usual one.
        pretrained: whether the first task starts from weights trained on Tiny-ImageNet. Default: False.
        references: values to compare with.
    """
    smoke = {"rows": smoke_rows(), "columns": ("40 %",)}
    return Experiment(
        name=name,
        title=title,
        paper=PAPER,
        rows=tuple(
            row(method, attacked=attacked, pretrained=pretrained) for attacked in (False, True) for method in METHODS
        ),
        columns=tuple(
            Column(f"{percent} %", stream, NETWORK, {**TRAINING, "strategy.remove_fraction": percent / 100}, x=percent)
            for percent in PERCENTS
        ),
        seeds=(1, 2, 3),
        references=references,
        presets={**presets, "smoke": {**SMOKE, **presets.get("smoke", {}), **smoke}},
        metrics=ACCURACIES,
        x_label="removed of each task (%)",
    )
