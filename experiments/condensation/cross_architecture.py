"""Sets condensed with one network, learned by others: LoDM on CIFAR-10, in the memory of ten plain images per class."""

from clpack.experiments.condensation.protocol import METRICS, PAPER, SHORT, SMOKE, TRAINING, condensed_row, whole_stream
from clpack.experiments.config import Column, Component, Experiment

_NETWORKS = {
    "MLP": Component("MLP", {"hidden_sizes": [128, 128]}),
    "ConvNet": Component("ConvNet"),
    "LeNet": Component("LeNet"),
    "AlexNet": Component("AlexNet"),
    "VGG11": Component("VGG11"),
    "ResNet18": Component("CondensationResNet18"),
}
_BUDGETS = dict.fromkeys(_NETWORKS, 10)

EXPERIMENT = Experiment(
    name="condensation/cross_architecture",
    title="Learning with other networks than the condensing one, CIFAR-10",
    paper=PAPER,
    rows=tuple(
        condensed_row(
            "cifar10",
            "dm",
            _BUDGETS,
            low_rank=low_rank,
            options={"network": network},
            name=f"{'Lo' * low_rank}DM with {network}",
            seeds=(1,),
        )
        for low_rank in (False, True)
        for network in ("ConvNetBN", "AlexNetBN", "ConvNet")
    ),
    columns=tuple(
        Column(name, whole_stream("cifar10"), network, {**TRAINING, "strategy.images_per_class": 10})
        for name, network in _NETWORKS.items()
    ),
    seeds=tuple(range(1, 21)),
    presets={
        "short": {
            **{key: value for key, value in SHORT.items() if key not in ("model.width", "strategy.network")},
            "seeds": (1, 2),
        },
        "smoke": {
            **{key: value for key, value in SMOKE.items() if key not in ("model.width", "strategy.network")},
            "columns": ("MLP", "LeNet"),
            "rows": ("LoDM with ConvNetBN",),
        },
    },
    metrics=METRICS[:1],
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
