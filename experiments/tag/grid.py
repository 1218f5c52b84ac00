"""The grid search of the paper: a tenth of the training samples is held out, and takes the place of the test samples.

The best row of each method is the one with the highest average accuracy, over five seeds. Several of the values that
the authors used are not on these grids. The network of Split-CUB has no dropout to search.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from clpack.experiments.config import Experiment
from clpack.experiments.tag.protocol import COLUMNS, PAPER, SHORT_FIVE, SMOKE, row

_LR = "strategy.lr"
_RATES = {_LR: (0.1, 0.05, 0.01, 0.001)}
_TAG = {"strategy.b": (1.0, 3.0, 5.0, 7.0), _LR: (0.005, 0.001, 0.0005, 0.0001, 0.00005, 0.00001)}

_GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    **dict.fromkeys(("SGD", "Adagrad", "RMSProp", "Adam", "A-GEM", "ER"), _RATES),
    **dict.fromkeys(("TAG-Adagrad", "TAG-RMSProp", "TAG-Adam"), _TAG),
    "EWC": {**_RATES, "strategy.ewc_lambda": (1.0, 10.0, 100.0)},
}
_STABLE = {_LR: (0.1, 0.05, 0.01), "strategy.gamma": (0.9, 0.8, 0.7)}
_DROPOUT = {"model.dropout": (0.0, 0.1, 0.25, 0.5)}
_WITHOUT_DROPOUT = ("Split-CUB",)
_WITH_DROPOUT = tuple(column.label for column in COLUMNS if column.label not in _WITHOUT_DROPOUT)
_ROWS = {method: row(method, grid=grid) for method, grid in _GRIDS.items()}
_SHORT = tuple(label for method in ("SGD", "TAG-RMSProp") for label, _ in _ROWS[method].points())

EXPERIMENT = Experiment(
    name="tag/grid",
    title="Grid search on held-out training samples",
    paper=PAPER,
    rows=(
        *_ROWS.values(),
        row("Stable SGD", grid={**_DROPOUT, **_STABLE}, columns=_WITH_DROPOUT),
        row("Stable SGD", grid=_STABLE, columns=_WITHOUT_DROPOUT),
    ),
    columns=tuple(replace(column, settings={**column.settings, "val_fraction": 0.1}) for column in COLUMNS),
    presets={
        "short": {**SHORT_FIVE, "seeds": (1,), "rows": _SHORT, "samples_per_class": 100},
        "smoke": {**SMOKE, "rows": ("SGD (lr=0.1)", "SGD (lr=0.01)", "TAG-RMSProp (b=5.0, lr=0.001)")},
    },
    metrics=("average_accuracy",),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
