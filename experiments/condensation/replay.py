"""Replay beside the data of each experience: samples as they are, or condensed images, in a memory of so many bytes.

Samples count with one byte for each number, as in their data set, and every label with eight.
"""

from __future__ import annotations

import math

from clpack.experiments.condensation.protocol import DATA, METRICS, PAPER, SHORT, SMOKE, condensed_row
from clpack.experiments.config import Column, Component, Experiment, Row
from clpack.presets import published_evaluation

__all__ = ["replay_table"]

_SIZES = {"32 kB": (32_000, 1), "320 kB": (320_000, 10)}  # bytes, and the nearest published images per class
_LABEL = 8  # bytes


def replay_table(dataset: str, title: str, *, image_shape: tuple[int, int, int]) -> Experiment:
    """Returns the table of a data set.

    Args:
        dataset: a name in :data:`clpack.experiments.condensation.protocol.DATA`.
        title: of the table.
        image_shape: ``(C, H, W)``.
    """
    budgets = {label: images_per_class for label, (_, images_per_class) in _SIZES.items()}
    columns = tuple(
        Column(
            label,
            Component(DATA[dataset], {"n_experiences": 5, "fixed_class_order": "numpy"}),
            Component("ConvNet"),
            {
                "train_epochs": 2,
                "train_mb_size": 64,
                "eval_mb_size": 256,
                "strategy.lr": 0.01,
                "strategy.momentum": 0.9,
                "strategy.mem_size": memory_bytes // (math.prod(image_shape) + _LABEL),
                "strategy.memory_bytes": memory_bytes,
            },
            x=memory_bytes / 1000,
        )
        for label, (memory_bytes, _) in _SIZES.items()
    )
    low_rank_options = {  # the same for all sizes
        "rank": 2,
        "lr_img": 1.0,
        "matching_augmentation": published_evaluation(dataset, "dm")["augmentation"],
    }
    condensed = [
        condensed_row(
            dataset,
            "dm",
            budgets,
            low_rank=low_rank,
            options={"precision": precision, **(low_rank_options if low_rank else {})},
            training={"memory_only": False},
            name=name,
        )
        for name, low_rank, precision in (
            ("Replay of DM", False, "float32"),
            ("Replay of LoDM", True, "float32"),
            ("Replay of LoDM, half precision", True, "float16"),
        )
    ]
    return Experiment(
        name=f"condensation/replay_{dataset}",
        title=title,
        paper=PAPER,
        rows=(
            Row("Fine-tuning", Component("Naive")),
            Row("Replay of samples, reservoir", Component("Replay", {"policy": "reservoir"})),
            Row("Replay of samples, balanced", Component("Replay", {"policy": "class_balanced"})),
            *condensed,
            Row("Joint training", Component("Cumulative"), upper_bound=True),
        ),
        columns=columns,
        seeds=(0, 1, 2, 3, 4),
        presets={
            "short": {**SHORT, "seeds": (0, 1), "train_epochs": 1, "columns": ("32 kB",)},
            "smoke": {**SMOKE, "columns": ("32 kB",), "rows": ("Replay of samples, reservoir", "Replay of LoDM")},
        },
        metrics=("average_accuracy", "forgetting", *METRICS[1:]),
        x_label="memory (kB)",
    )
