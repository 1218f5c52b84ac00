"""What is forgotten: two tasks of the same classes, one of samples that are never forgotten, one of the others.

As figure 4 of the paper, which has CIFAR-10 only: a task trains on samples that were never forgotten in other runs, on
samples that were, or on random ones, and the accuracy on the training samples of both tasks is measured after every
epoch. On MNIST so few samples are ever forgotten that each task has 2,000.
"""

from clpack.experiments.config import Column, Component, Experiment, Row, Sources
from clpack.experiments.mli.removal import CIFAR_TRAINING, MNIST_TRAINING, PAPER

_SGD = Component("Naive")
_SCORING = {"MNIST": {"train_epochs": 20}, "CIFAR-10": {"train_epochs": 200}}
_SOURCES = Sources(Component("Trace"), (1, 2, 3, 4, 5), settings_by_column=_SCORING)
_NEVER, _EVER = [0, 1], [1, None]  # forgetting events, the upper end excluded

EXPERIMENT = Experiment(
    name="mli/two_tasks",
    title="Samples that are forgotten, and others, as two tasks",
    paper=PAPER,
    rows=(
        Row("Random, then random", _SGD),
        Row("Never forgotten, then forgotten", _SGD, {"stream.score_ranges": [_NEVER, _EVER]}, sources=_SOURCES),
        Row("Forgotten, then never forgotten", _SGD, {"stream.score_ranges": [_EVER, _NEVER]}, sources=_SOURCES),
    ),
    columns=(
        Column(
            "Digits",
            Component("ScoreSplitDigits", {"images_per_experience": 200}),
            Component("MLP", {"hidden_sizes": [64, 64]}),
            {"train_epochs": 60, "train_mb_size": 10, "eval_mb_size": 512, "strategy.lr": 0.1},
        ),
        Column(
            "MNIST",
            Component("ScoreSplitMNIST", {"images_per_experience": 2_000}),
            Component("MNISTNet", {"dropout": False}),
            {**MNIST_TRAINING, "train_epochs": 60},
        ),
        Column(
            "CIFAR-10",
            Component("ScoreSplitCIFAR10", {"images_per_experience": 5_000, "augmentation": "crop_flip"}),
            Component("ResNet18"),
            {**CIFAR_TRAINING, "train_epochs": 20},
        ),
    ),
    presets={
        "short": {"columns": ("Digits", "MNIST"), "source_seeds": (1,), "seeds": (1, 2)},
        "smoke": {
            "columns": ("Digits",),
            "source_seeds": (1,),
            "seeds": (1,),
            "train_epochs": 5,
            "stream.images_per_experience": 60,
        },
    },
    metrics=("train_forgetting", "train_learning_accuracy", "average_accuracy"),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
