"""CCSI on small streams that need no medical data: digits, Fashion-MNIST, and four kinds of white blood cells."""

from clpack.experiments.ccsi.protocol import METRICS, PAPER, ROWS, SMOKE, column
from clpack.experiments.config import Component, Experiment

EXPERIMENT = Experiment(
    name="ccsi/small",
    title="New classes without old images: digits, white blood cells, Fashion-MNIST",
    paper=PAPER,
    rows=ROWS,
    columns=(
        column(
            "Split digits",
            Component("SplitDigits", {"n_experiences": 5, "image_size": 16}),
            10,
            options={"train_epochs": 12, "strategy.iterations": 200, "strategy.images_per_class": 80},
            flip=False,
        ),
        column(
            "White blood cells",
            Component("SplitMedMNIST", {"name": "wbc4", "n_experiences": 2}),
            4,
            options={"train_epochs": 12, "strategy.iterations": 200},
        ),
        column(
            "Split Fashion-MNIST",
            Component("SplitFMNIST", {"n_experiences": 5}),
            10,
            options={
                "train_epochs": 1,
                "strategy.iterations": 200,
                "strategy.images_per_class": 40,
                "strategy.pixel_range": [-0.8102, 2.0227],  # of the normalized images
            },
        ),
    ),
    presets={
        "short": {"seeds": (1, 2), "columns": ("Split digits",), "train_epochs": 6},
        "short_cells": {"seeds": (1, 2), "columns": ("White blood cells",)},
        "short_fashion": {
            "seeds": (1, 2),
            "columns": ("Split Fashion-MNIST",),
            "rows": ("Fine-tuning", "LwF", "CCSI"),
            "samples_per_class": 1000,
            "train_epochs": 2,
        },
        "smoke": {**SMOKE, "columns": ("Split digits",), "stream.n_experiences": 2},
    },
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
