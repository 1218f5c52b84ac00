"""What the tables of TAG's paper have in common: streams, network, and the methods with their published settings.

The streams have a single head with the logits of other tasks masked, nothing is augmented, and each task is trained for
one epoch with batches of 10 (64 for 5-dataset). The network of Split-CUB starts from weights trained on ImageNet; it
has no dropout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clpack.experiments.config import Column, Component, Reference, Row
from clpack.experiments.tag.published import SOURCE, Results

__all__ = [
    "COLUMNS",
    "MEMORY",
    "METRICS",
    "NETWORK",
    "PAPER",
    "SHORT_FIVE",
    "SHORT_ROWS",
    "SMOKE",
    "Settings",
    "references",
    "row",
]

PAPER = "P. Malviya et al., Task-based Accumulated Gradients for Lifelong learning, CoLLAs 2022, arXiv:2105.05155"
METRICS = ("average_accuracy", "forgetting", "learning_accuracy")
NETWORK = Component("ReducedResNet18", {"head": "masked", "dropout": 0.0})

_STREAMS = ("Split-CIFAR100", "Split-miniImageNet", "Split-CUB", "5-dataset")

#: Classes of each stream: slots of a reservoir with one sample per class.
MEMORY = (100, 100, 200, 50)

COLUMNS = (
    Column(
        "Split-CIFAR100",
        Component("PlainSplitCIFAR100", {"n_experiences": 20, "seed": 0}),
        NETWORK,
        {"train_mb_size": 10, "eval_mb_size": 256},
    ),
    Column(
        "Split-miniImageNet",
        Component("SplitMiniImageNet", {"n_experiences": 20, "seed": 0}),
        NETWORK,
        {"train_mb_size": 10, "eval_mb_size": 256, "drop_last": True},
    ),
    Column(
        "Split-CUB",
        Component("SplitCUB", {"n_experiences": 20, "seed": 0}),
        Component("ImageNetResNet18", {"head": "masked"}),
        {"train_mb_size": 10, "eval_mb_size": 256, "drop_last": True},
    ),
    Column(
        "5-dataset",
        Component("FiveDatasets", {"members": ["cifar10", "mnist", "svhn", "notmnist", "fashionmnist"], "seed": 0}),
        NETWORK,
        {"train_mb_size": 64, "eval_mb_size": 256},
    ),
)

Settings = Mapping[str, Sequence[Any]]  # by setting: its value for each stream; None for one that lacks the setting

_LR, _B = "strategy.lr", {"strategy.b": (5.0, 5.0, 5.0, 7.0)}
_SGD: Settings = {_LR: (0.1, 0.05, 0.01, 0.1)}
_RMSPROP: Settings = {_LR: (0.005, 0.001, 0.0001, 0.001)}
_TAG_RMSPROP: Settings = {_LR: (0.00025, 0.0001, 0.000025, 0.0005), **_B}
_EWC: Settings = {"strategy.ewc_lambda": (1.0, 1.0, 1.0, 100.0)}
_AGEM: Settings = {"strategy.examples_per_class": (1, 1, 1, 1)}
_ER: Settings = {"strategy.mem_size": MEMORY}

_METHODS: Mapping[str, tuple[str, str, Settings]] = {  # strategy, optimizer, and settings
    "SGD": ("Naive", "SGD", _SGD),
    "Adagrad": ("Naive", "Adagrad", {_LR: (0.01, 0.01, 0.0005, 0.005)}),
    "RMSProp": ("Naive", "RMSprop", _RMSPROP),
    "Adam": ("Naive", "Adam", {_LR: (0.005, 0.001, 0.0001, 0.001)}),
    "TAG-Adagrad": ("TAG", "TAG-Adagrad", {_LR: (0.005, 0.001, 0.0005, 0.005), **_B}),
    "TAG-RMSProp": ("TAG", "TAG-RMSprop", _TAG_RMSPROP),
    "TAG-Adam": ("TAG", "TAG-Adam", {_LR: (0.0005, 0.00025, 0.0001, 0.0005), **_B}),
    "EWC": ("RunningEWC", "SGD", {**_SGD, **_EWC}),
    "RMSProp-EWC": ("RunningEWC", "RMSprop", {**_RMSPROP, **_EWC}),
    "TAG-EWC": ("RunningEWC", "TAG-RMSprop", {**_TAG_RMSPROP, **_EWC}),
    "A-GEM": ("RingAGEM", "SGD", {_LR: (0.1, 0.1, 0.01, 0.1), **_AGEM}),
    "RMSProp-A-GEM": ("RingAGEM", "RMSprop", {**_RMSPROP, **_AGEM}),
    "TAG-A-GEM": ("RingAGEM", "TAG-RMSprop", {**_TAG_RMSPROP, **_AGEM}),
    "ER": ("ReservoirER", "SGD", {**_SGD, **_ER}),
    "RMSProp-ER": ("ReservoirER", "RMSprop", {**_RMSPROP, **_ER}),
    "TAG-ER": ("ReservoirER", "TAG-RMSprop", {**_TAG_RMSPROP, **_ER}),
    "Stable SGD": (
        "StableSGD",
        "SGD",
        {
            _LR: (0.1, 0.1, 0.05, 0.1),
            "strategy.gamma": (0.9, 0.9, 0.9, 0.7),
            "model.dropout": (0.1, 0.0, None, 0.0),
        },
    ),
    # Not joint training: the sequence of tasks is repeated six times.
    "Multi-task": ("Naive", "SGD", {_LR: (0.01, 0.01, 0.01, 0.05), "cycles": (6, 6, 6, 6)}),
}

#: The rows of short runs.
SHORT_ROWS = ("SGD", "RMSProp", "EWC", "A-GEM", "ER", "TAG-RMSProp")

#: 5-dataset without SVHN and with CIFAR-10 after JPEG compression, 400 samples of each class, and a small network. The
#: batches are smaller, so that a task has 400 steps and not 63.
SHORT_FIVE: Mapping[str, Any] = {
    "seeds": (1, 2),
    "columns": ("5-dataset",),
    "stream.members": ["cifar10_jpeg", "mnist", "notmnist", "fashionmnist"],
    "samples_per_class": 400,
    "train_mb_size": 10,
    "model.width": 8,
}

#: Two tasks of the digits that come with scikit-learn, in place of Split-CIFAR100.
SMOKE: Mapping[str, Any] = {
    "seeds": (1,),
    "columns": ("Split-CIFAR100",),
    "stream": "SplitDigits",
    "stream.n_experiences": 2,
    "stream.return_task_id": True,
    "model": "MLP",
    "model.hidden_sizes": [16],
}


def row(
    method: str,
    label: str = "",
    *,
    changes: Settings | None = None,
    like: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    columns: tuple[str, ...] = (),
) -> Row:
    """Returns the row of a method with its published settings.

    Args:
        method: its name in the paper.
        label: of the row. Default: the name of the method.
        changes: settings in place of the published ones, a value for each stream of the paper.
        like: for each column by its label, the stream of the paper whose settings it has. Default: those of
            :data:`COLUMNS`, each its own.
        settings: for all columns.
        grid: values to try.
        columns: labels of the columns that it is for. Default: none, all of them.
    """
    strategy, optimizer, published = _METHODS[method]
    by_stream = {**published, **(changes or {})}
    like = like or {column.label: column.label for column in COLUMNS}
    return Row(
        label or method,
        Component(strategy, {"optimizer": optimizer}),
        settings=settings or {},
        settings_by_column={
            column: {
                key: value for key, values in by_stream.items() if (value := values[_STREAMS.index(stream)]) is not None
            }
            for column, stream in like.items()
        },
        grid=grid or {},
        upper_bound=method == "Multi-task",
        columns=columns,
    )


def references(results: Results, methods: Mapping[str, str], source: str = SOURCE) -> tuple[Reference, ...]:
    """Returns the published values.

    Args:
        results: of :mod:`clpack.experiments.tag.published`.
        methods: for each row by its label, the name in ``results``.
        source: where they come from.
    """
    return tuple(
        Reference(label, column.label, metric, value[0], value[1], source)
        for label, method in methods.items()
        for metric, values in zip(METRICS, results[method], strict=False)  # of Multi-task only the accuracy
        for column in COLUMNS
        if (value := values[_STREAMS.index(column.label)]) is not None
    )
