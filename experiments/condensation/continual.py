"""Class-incremental learning from a memory alone: a new network after each step, trained on the images kept so far.

The order of classes is that of NumPy's legacy generator for the seed of the cell, as in the authors' scripts. DM treats
each class by itself, so its sets are condensed once for all orders and steps; DSA condenses the classes of a step
together. Where the authors train three networks for each order, a cell trains one.
"""

from __future__ import annotations

from typing import Literal

from clpack.experiments.condensation.protocol import (
    DATA,
    METRICS,
    PAPER,
    SHORT,
    SMOKE,
    TRAINING,
    condensed_row,
    label,
    raw_row,
)
from clpack.experiments.config import Column, Component, Experiment, Row
from clpack.presets import published_evaluation, published_settings

__all__ = ["continual_table"]

_STEPS = (5, 10)
_RAW: tuple[tuple[str, Literal["random", "herding"]], ...] = (("Random", "random"), ("Herding", "herding"))
_BYTES = 4  # of a stored number, where that of an image of the data set has one


def continual_table(dataset: str, title: str, *, images_per_class: int, rank: int) -> Experiment:
    """Returns the table of a data set.

    Args:
        dataset: a name in :data:`clpack.experiments.condensation.protocol.DATA`.
        title: of the table.
        images_per_class: the memory of a class, in plain images of float32 numbers.
        rank: of the factors of LoDM.
    """
    augmentation = published_evaluation(dataset, "dm")["augmentation"]
    columns = tuple(
        Column(
            f"{steps} steps",
            Component(DATA[dataset], {"n_experiences": steps, "fixed_class_order": "numpy"}),
            Component("ConvNet"),
            {**TRAINING, "strategy.images_per_class": images_per_class},
        )
        for steps in _STEPS
    )
    budgets = {column.label: images_per_class for column in columns}
    in_bytes = {"strategy.images_per_class": _BYTES * images_per_class}
    rows = [
        Row(f"{name}, {amount}", raw_row(name, method, augmentation).strategy, settings)
        for amount, settings in (("as many numbers", {}), ("about as many bytes", in_bytes))
        for name, method in _RAW
    ]
    rows.append(_dsa_row(dataset, images_per_class))
    training = {"augmentation": augmentation, "augmentation_family": "dsa"}  # the same for all
    rows += [
        condensed_row(dataset, "dm", budgets, low_rank=False, training=training),
        condensed_row(dataset, "dm", budgets, low_rank=True, options={"rank": rank}, training=training),
    ]
    return Experiment(
        name=f"condensation/continual_{dataset}",
        title=title,
        paper=PAPER,
        rows=tuple(rows),
        columns=columns,
        seeds=(0, 1, 2, 3, 4),
        presets={
            "short": {
                **SHORT,
                "seeds": (0, 1),
                "columns": ("5 steps",),
                "rows": tuple(row.label for row in rows if row.label != "DSA"),
            },
            "smoke": {
                **SMOKE,
                "columns": ("10 steps",),
                "rows": ("Herding, about as many bytes", "DSA", "LoDM"),
                "strategy.images_per_class": 1,
                "strategy.iterations": 1,
                "strategy.batch_real": 4,
            },
        },
        metrics=METRICS,
    )


def _dsa_row(dataset: str, images_per_class: int) -> Row:
    settings = published_settings(dataset, "dsa", images_per_class, low_rank=False)
    settings["matching_augmentation"] = settings.pop("augmentation", None)
    options = {name: value for name, value in settings.items() if value is not None}
    augmentation = published_evaluation(dataset, "dsa")["augmentation"]
    return Row(
        label("dsa", low_rank=False), Component("CondensedReplay", {**options, "rank": 0, "augmentation": augmentation})
    )
