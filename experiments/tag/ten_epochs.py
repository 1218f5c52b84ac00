"""TAG-RMSProp against the baselines of the paper with ten epochs for each task, from the authors' logs alone.

The settings are those that the logs state; the ones below differ from those of one epoch. The logs have TAG-RMSProp on
Split-CUB only, five runs of it and three of the others; on the other streams its settings are those of one epoch.
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
from clpack.experiments.tag.published import TEN_EPOCHS

_METHODS = ("SGD", "RMSProp", "EWC", "A-GEM", "ER", "Stable SGD", "TAG-RMSProp")
_LR = "strategy.lr"
_CHANGES: Mapping[str, Settings] = {
    "SGD": {_LR: (0.1, 0.1, 0.01, 0.1)},
    "RMSProp": {_LR: (0.005, 0.005, 0.0001, 0.001)},
    "EWC": {"strategy.ewc_lambda": (1.0, 1.0, 10.0, 1.0)},
    "A-GEM": {_LR: (0.1, 0.1, 0.01, 0.05)},
    "ER": {_LR: (0.1, 0.1, 0.01, 0.05)},
    "Stable SGD": {
        _LR: (0.1, 0.05, 0.01, 0.05),
        "strategy.gamma": (0.9, 0.9, 0.9, 0.8),
        "model.dropout": (0.0, 0.0, None, 0.1),
    },
}

EXPERIMENT = Experiment(
    name="tag/ten_epochs",
    title="TAG-RMSProp and other methods, ten epochs for each task",
    paper=PAPER,
    rows=tuple(row(method, changes=_CHANGES.get(method), settings={"train_epochs": 10}) for method in _METHODS),
    columns=COLUMNS,
    seeds=(1, 2, 3),
    references=references(
        TEN_EPOCHS,
        dict(zip(_METHODS, _METHODS, strict=True)),
        "the authors' logs of three runs, five of TAG-RMSProp",
    ),
    presets={
        "short": {**SHORT_FIVE, "rows": SHORT_ROWS, "samples_per_class": 100, "strategy.mem_size": 40},
        "smoke": {**SMOKE, "train_epochs": 2},
    },
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
