"""CCSI with one part after the other left out."""

from collections.abc import Mapping
from typing import Any

from clpack.experiments.ccsi.protocol import MEDMNIST_OF_CCSI, METRICS, PAPER, column, medmnist_column
from clpack.experiments.config import Component, Experiment, Row

_BLOOD, _DIGITS = "BloodMNIST", "Split digits"


def _row(
    label: str, settings: Mapping[str, Any] | None = None, *, on_digits: Mapping[str, Any] | None = None, **options: Any
) -> Row:
    by_column = {_BLOOD: MEDMNIST_OF_CCSI[_BLOOD], _DIGITS: on_digits or {}}
    return Row(label, Component("CCSI", options), {"model.head": "cosine", **(settings or {})}, by_column)


EXPERIMENT = Experiment(
    name="ccsi/ablation",
    title="What each part of CCSI gives",
    paper=PAPER,
    rows=(
        _row("CCSI"),
        _row("Impressions from noise", init="noise"),
        _row("No statistics of layers", statistics=0.0),
        _row("Batch instead of continual normalization", {"model.norm": "batch"}),
        _row("Linear instead of cosine logits", cosine=False),
        _row("No margin loss", margin_weight=0.0),
        _row("No intra-domain loss", idc_weight=0.0),
        _row("No distillation", less_forget=0.0),
        _row(
            "Choices of the released code",
            on_digits={"strategy.images_per_class": None, "strategy.num_batches": [4, 8, 12, 16]},  # as many
            preset="released",
        ),
    ),
    columns=(
        medmnist_column(_BLOOD),
        column(
            _DIGITS,
            Component("SplitDigits", {"n_experiences": 5, "image_size": 16}),
            10,
            options={"train_epochs": 12, "strategy.iterations": 200, "strategy.images_per_class": 80},
            flip=False,
        ),
    ),
    presets={
        "short": {"seeds": (1, 2), "columns": (_DIGITS,), "train_epochs": 6},
        "smoke": {
            "seeds": (1,),
            "columns": (_DIGITS,),
            "stream.n_experiences": 2,
            "samples_per_class": 20,
            "train_epochs": 1,
            "strategy.iterations": 2,
            "strategy.images_per_class": None,
            "strategy.num_batches": 1,
        },
    },
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
