"""TAG and the baselines on twenty tasks of a part of Tiny-ImageNet, which stands in for Split-CIFAR100.

Images have 32 pixels a side, and the settings are those of Split-CIFAR100. There are 400 training samples for each task
in place of 2500, so the paper has no numbers to compare with.
"""

from clpack.experiments.config import Column, Component, Experiment
from clpack.experiments.tag.protocol import METRICS, NETWORK, PAPER, SHORT_ROWS, SMOKE, row

_LABEL = "Tiny-ImageNet-100, 20 tasks"
_METHODS = (
    *("SGD", "RMSProp", "EWC", "A-GEM", "ER", "Stable SGD", "TAG-RMSProp"),
    *("TAG-EWC", "TAG-A-GEM", "TAG-ER", "Multi-task"),
)

EXPERIMENT = Experiment(
    name="tag/tiny_imagenet",
    title="TAG and other methods on a part of Tiny-ImageNet",
    paper=PAPER,
    rows=tuple(row(method, like={_LABEL: "Split-CIFAR100"}) for method in _METHODS),
    columns=(
        Column(
            _LABEL,
            Component("SplitTinyImageNet100", {"n_experiences": 20, "image_size": 32, "seed": 0}),
            NETWORK,
            {"train_mb_size": 10, "eval_mb_size": 256},
        ),
    ),
    presets={
        "short": {"seeds": (1, 2), "rows": SHORT_ROWS, "model.width": 10},
        "smoke": {**SMOKE, "columns": (_LABEL,)},
    },
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
