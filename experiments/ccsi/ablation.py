"""CCSI with one part after the other left out."""

from typing import Any

from clpack.experiments.ccsi.protocol import METRICS, PAPER, column
from clpack.experiments.config import Component, Experiment, Row


def _row(label: str, settings: dict[str, Any] | None = None, **options: Any) -> Row:
    return Row(label, Component("CCSI", options), {"model.head": "cosine", **(settings or {})})


EXPERIMENT = Experiment(
    name="ccsi/ablation",
    title="What each part of CCSI gives",
    paper=PAPER,
    rows=(
        _row("CCSI"),
        _row("Impressions from noise", init="noise"),
        _row("No statistics of layers", statistics=0.0),
        _row("Batch instead of continual normalization", {"model.norm": "batch"}),
        _row("No margin loss", margin_weight=0.0),
        _row("No intra-domain loss", idc_weight=0.0),
        _row("No distillation", less_forget=0.0),
    ),
    columns=(
        column("BloodMNIST", Component("SplitMedMNIST", {"name": "bloodmnist", "n_experiences": 4}), 8),
        column(
            "Split digits",
            Component("SplitDigits", {"n_experiences": 5, "image_size": 16}),
            10,
            options={"train_epochs": 12, "strategy.iterations": 200, "strategy.images_per_class": 80},
            flip=False,
        ),
    ),
    presets={
        "short": {"seeds": (1, 2), "columns": ("Split digits",), "train_epochs": 6},
        "smoke": {
            "seeds": (1,),
            "columns": ("Split digits",),
            "stream.n_experiences": 2,
            "train_epochs": 1,
            "strategy.iterations": 2,
            "strategy.images_per_class": 4,
            "rows": ("CCSI", "Batch instead of continual normalization", "No distillation"),
        },
    },
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
