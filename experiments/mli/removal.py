"""What the removal tables have in common: samples are removed in the order of a score, and a new network is trained.

The scores come from separate runs of five seeds, all with the same data: the forgetting events are summed and ties
broken at random, as in the paper of example forgetting; the MLI is averaged, where its authors had one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clpack.experiments.config import Column, Component, Experiment, Reference, Row, Sources

__all__ = ["CIFAR_TRAINING", "MNIST_COUNTS", "MNIST_TRAINING", "PAPER", "cifar_table", "mnist_table", "window_table"]

PAPER = (
    "M. Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning, ICLR 2019, "
    "arXiv:1812.05159; Max Loss Increase & Gradient Loss, github.com/tonydrabeck/260D"
)
MNIST_TRAINING: Mapping[str, Any] = {
    "train_epochs": 200,
    "train_mb_size": 64,
    "eval_mb_size": 512,
    "strategy.lr": 0.01,
    "strategy.momentum": 0.5,
}
CIFAR_TRAINING: Mapping[str, Any] = {
    "train_epochs": 200,
    "train_mb_size": 128,
    "eval_mb_size": 512,
    "strategy.lr": 0.1,
    "strategy.lr_milestones": [60, 120, 160],
    "strategy.lr_gamma": 0.2,
    "strategy.momentum": 0.9,
    "strategy.nesterov": True,
    "strategy.weight_decay": 5e-4,
}
MNIST_COUNTS = (15_000, 30_000, 45_000, 48_000, 51_000, 54_000, 57_000, 59_000)

_SOURCE = "the MLI repository: one run, the best test accuracy of its 50 epochs; ours is that after the last epoch"


def mnist_table(
    name: str, title: str, stream: Component, baseline: float, accuracies: Mapping[str, Sequence[float | None]]
) -> Experiment:
    """Returns the table for MNIST, its pixels permuted or not; scores come from runs without dropout.

    Args:
        name: of the table.
        title: of the table.
        stream: one experience with all samples.
        baseline: what the authors of MLI reached without removal, in percent.
        accuracies: what they reached, by row, for each of :data:`MNIST_COUNTS`; None where they did not try.
    """
    references = [Reference("No removal", f"{count:,}", "average_accuracy", baseline) for count in MNIST_COUNTS]
    references += [
        Reference(row, f"{count:,}", "average_accuracy", value, source=_SOURCE)
        for row, values in accuracies.items()
        for count, value in zip(MNIST_COUNTS, values, strict=True)
        if value is not None
    ]
    return Experiment(
        name=name,
        title=title,
        paper=PAPER,
        rows=_rows({"model.dropout": False}),
        columns=_columns(MNIST_COUNTS, stream, Component("MNISTNet"), MNIST_TRAINING),
        references=tuple(references),
        presets={
            "short": {
                "seeds": (1, 2),
                "source_seeds": (1, 2),
                "train_epochs": 20,
                "columns": ("30,000", "45,000", "51,000", "54,000", "57,000"),
            },
            "smoke": {"seeds": (1,), "source_seeds": (1,), "train_epochs": 2, "columns": ("45,000", "59,000")},
        },
        metrics=("average_accuracy",),
        x_label="samples removed of 60,000",
    )


def cifar_table(name: str, title: str, stream: str) -> Experiment:
    """Returns the table for CIFAR-10 or CIFAR-100; scores come from runs with crops and flips, the others add cutout.

    Args:
        name: of the table.
        title: of the table.
        stream: name of the stream.
    """
    component = Component(stream, {"n_experiences": 1, "seed": 0, "augmentation": "cutout"})
    few = {"seeds": (1,), "source_seeds": (1,)}
    return Experiment(
        name=name,
        title=title,
        paper=PAPER,
        rows=_rows({"stream.augmentation": "crop_flip"}),
        columns=_columns(range(5_000, 30_001, 5_000), component, Component("ResNet18"), CIFAR_TRAINING),
        presets={
            "short": {**few, "train_epochs": 30, "strategy.lr_milestones": [9, 18, 24]},
            "smoke": {**few, "train_epochs": 2, "columns": ("15,000",), "model": "MLP"},
        },
        metrics=("average_accuracy",),
        x_label="samples removed of 50,000",
    )


def window_table(name: str, title: str, stream: Component) -> Experiment:
    """Returns the table of the sliding window: 5,000 samples are removed, the easiest or ever harder ones.

    Args:
        name: of the table.
        title: of the table.
        stream: one experience with all samples.
    """
    columns = tuple(
        Column(
            f"{start:,}",
            stream,
            Component("MNISTNet"),
            {**MNIST_TRAINING, "strategy.remove_count": 5_000, "strategy.skip_count": start},
            x=start,
        )
        for start in range(0, 55_001, 5_000)
    )
    return Experiment(
        name=name,
        title=title,
        paper=PAPER,
        rows=_rows({"model.dropout": False}),
        columns=columns,
        presets={
            "short": {"seeds": (1,), "source_seeds": (1, 2), "train_epochs": 20, "columns": ("0", "25,000", "55,000")},
            "smoke": {"seeds": (1,), "source_seeds": (1,), "train_epochs": 2, "columns": ("0", "55,000")},
        },
        metrics=("average_accuracy",),
        x_label="easier samples that stay",
    )


def _rows(source_settings: Mapping[str, Any]) -> tuple[Row, ...]:
    sources = Sources(Component("Trace"), (1, 2, 3, 4, 5), source_settings)
    forgetting = {"score": "forgetting", "tie_break": "random", "min_per_class": 0}
    return (
        Row("No removal", Component("Naive"), upper_bound=True),
        Row("Forgetting", Component("Pruning", forgetting), sources=sources),
        Row("MLI", Component("Pruning", {"score": "mli", "min_per_class": 0}), sources=sources),
        Row("Random", Component("Pruning", {"score": "random", "min_per_class": 0})),
    )


def _columns(
    counts: Sequence[int], stream: Component, model: Component, training: Mapping[str, Any]
) -> tuple[Column, ...]:
    return tuple(
        Column(f"{count:,}", stream, model, {**training, "strategy.remove_count": count}, x=count) for count in counts
    )
