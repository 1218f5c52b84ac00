"""TAG-RMSProp against the baselines of the paper with five epochs for each task.

The settings are those of one epoch, but for two that the authors' logs have otherwise: the learning rate of SGD on
Split-miniImageNet, and no dropout in Stable SGD on Split-CIFAR100.
"""

from collections.abc import Mapping

from clpack.experiments.config import Experiment
from clpack.experiments.tag.protocol import (
    COLUMNS,
    METRICS,
    PAPER,
    SHORT_FIVE,
    SHORT_ROWS,
    SMOKE,
    Settings,
    references,
    row,
)
from clpack.experiments.tag.published import FIVE_EPOCHS

_METHODS = ("SGD", "RMSProp", "EWC", "A-GEM", "ER", "Stable SGD", "TAG-RMSProp")
_CHANGES: Mapping[str, Settings] = {
    "SGD": {"strategy.lr": (0.1, 0.1, 0.01, 0.1)},
    "Stable SGD": {"model.dropout": (0.0, 0.0, None, 0.0)},
}

EXPERIMENT = Experiment(
    name="tag/five_epochs",
    title="TAG-RMSProp and other methods, five epochs for each task",
    paper=PAPER,
    rows=tuple(row(method, changes=_CHANGES.get(method), settings={"train_epochs": 5}) for method in _METHODS),
    columns=COLUMNS,
    references=references(FIVE_EPOCHS, dict(zip(_METHODS, _METHODS, strict=True))),
    presets={
        "short": {**SHORT_FIVE, "rows": SHORT_ROWS, "samples_per_class": 100, "strategy.mem_size": 40},
        "smoke": {**SMOKE, "train_epochs": 2},
    },
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
