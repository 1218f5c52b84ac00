"""Are wrong labels found? A fifth of the labels is wrong, and the fifth of the samples that looks worst is removed.

What looks worst differs: most forgotten, largest MLI, largest mean loss (EpochLoss), smallest margin (AUM).
"""

from clpack.experiments.config import Column, Component, Experiment, Row, Sources
from clpack.experiments.mli.removal import CIFAR_TRAINING, MNIST_TRAINING, PAPER

_NOISY = {"n_experiences": 1, "seed": 0, "label_noise": 20}


def _row(label: str, score: str, remove: str, *, trains_first: bool = True) -> Row:
    sources = Sources(Component("Trace"), (1, 2, 3)) if trains_first else None
    pruning = Component("Pruning", {"score": score, "remove": remove, "remove_fraction": 0.2, "tie_break": "random"})
    return Row(label, pruning, sources=sources)


EXPERIMENT = Experiment(
    name="mli/label_noise",
    title="Finding wrong labels, 20 % of all",
    paper=PAPER,
    rows=(
        Row("No removal", Component("Naive"), upper_bound=True),
        _row("Forgetting", "forgetting", "highest"),
        _row("MLI", "mli", "highest"),
        _row("EpochLoss", "epoch_loss", "highest"),
        _row("AUM", "aum", "lowest"),
        _row("Random", "random", "highest", trains_first=False),
    ),
    columns=(
        Column(
            "Digits",
            Component("NoisyDigits", _NOISY),
            Component("MLP", {"hidden_sizes": [64, 64]}),
            {"train_epochs": 50, "train_mb_size": 32, "eval_mb_size": 512, "strategy.lr": 0.1},
        ),
        Column("MNIST", Component("NoisyMNIST", _NOISY), Component("MNISTNet", {"dropout": False}), MNIST_TRAINING),
        Column("CIFAR-10", Component("NoisyCIFAR10", _NOISY), Component("ResNet18"), CIFAR_TRAINING),
    ),
    seeds=(1, 2, 3),
    presets={
        "short": {"columns": ("Digits",)},
        "smoke": {"columns": ("Digits",), "train_epochs": 2, "source_seeds": (1,), "seeds": (1,)},
    },
    metrics=("noise_found", "average_accuracy"),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
