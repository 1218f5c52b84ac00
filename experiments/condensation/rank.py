"""What rank, start and fresh networks do in low-rank distribution matching: CIFAR-10, one plain image per class."""

from clpack.experiments.condensation.protocol import (
    METRICS,
    PAPER,
    SHORT,
    SMOKE,
    TRAINING,
    condensed_row,
    whole_stream,
)
from clpack.experiments.config import Column, Component, Experiment

_COLUMNS = {"1 per class": 1, "10 per class": 10}
_RANKS = (1, 2, 4, 8, 16)

EXPERIMENT = Experiment(
    name="condensation/rank",
    title="Rank, start and reuse of networks in LoDM on CIFAR-10",
    paper=PAPER,
    rows=(
        condensed_row("cifar10", "dm", _COLUMNS, low_rank=False, options={"init": "noise"}, name="DM, noise"),
        condensed_row("cifar10", "dm", _COLUMNS, low_rank=False, name="DM, real images"),
        *(
            condensed_row(
                "cifar10",
                "dm",
                _COLUMNS,
                low_rank=True,
                options={"rank": rank},
                name=f"LoDM, rank {rank}",
            )
            for rank in _RANKS
        ),
        condensed_row("cifar10", "dm", _COLUMNS, low_rank=True, options={"init": "svd"}, name="LoDM, rank 2 from SVD"),
        condensed_row(
            "cifar10",
            "dm",
            _COLUMNS,
            low_rank=True,
            options={"network_reuse": 5},
            name="LoDM, rank 2, each network five times",
        ),
    ),
    columns=tuple(
        Column(
            label,
            whole_stream("cifar10"),
            Component("ConvNet"),
            {**TRAINING, "strategy.images_per_class": images_per_class},
            x=images_per_class,
        )
        for label, images_per_class in _COLUMNS.items()
    ),
    seeds=tuple(range(1, 101)),
    presets={
        "short": {**SHORT, "columns": ("1 per class",)},
        "smoke": {**SMOKE, "columns": ("1 per class",)},
    },
    metrics=METRICS,
    x_label="memory of a class (plain images)",
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
