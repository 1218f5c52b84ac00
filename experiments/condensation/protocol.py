"""What the tables of condensation have in common: the methods with their published settings, and how sets are tested.

A cell trains one new network on a memory of images and tests it on all test images. The condensed sets are runs of
their own, which cells share: with n of them, the cell of seed s takes the set s mod n. On sets by MTT networks are
trained with the learning rate that was learned with them, in place of that of the table.

The student of MTT learns from mini-batches of at most 256 images. These are the whole set in all published settings but
those for 50 images per class, of which the whole set would take 100 GB. The published settings of plain MTT for
CIFAR-100 are those for whitened images, which its cells have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from clpack.experiments.config import Component, Row, Sources
from clpack.presets import published_evaluation, published_settings

__all__ = [
    "DATA",
    "METRICS",
    "PAPER",
    "SHORT",
    "SHORT_MTT",
    "SMOKE",
    "SMOKE_MTT",
    "TRAINING",
    "condensed_row",
    "label",
    "raw_row",
    "whole_stream",
]

Method = Literal["dc", "dsa", "dm", "mtt"]

PAPER = (
    "E. Yang et al., An Efficient Dataset Condensation Plugin and Its Application to Continual Learning, NeurIPS 2023"
)
METRICS = ("average_accuracy", "memory_images", "memory_numbers", "memory_bytes")

#: Stream and network side by the name of the data set in :mod:`clpack.presets`.
DATA: Mapping[str, str] = {
    "mnist": "SplitMNIST",
    "fashion_mnist": "SplitFMNIST",
    "cifar10": "SplitCIFAR10",
    "cifar100": "SplitCIFAR100",
    "svhn": "SplitSVHN",
    "tiny_imagenet": "SplitTinyImageNet",
}
_NORMALIZED_ON_DEMAND = ("svhn", "tiny_imagenet")
_WHITENED = {("cifar100", 1): "PlainSplitCIFAR100"}  # stream of whitened images, by data set and images per class
_STUDENT_BATCH = 256

#: How networks are trained on a memory; DC has its own augmentation and number of epochs.
TRAINING: Mapping[str, Any] = {
    "train_epochs": 1001,
    "train_mb_size": 256,
    "eval_mb_size": 256,
    "strategy.lr": 0.01,
    "strategy.momentum": 0.9,
    "strategy.weight_decay": 5e-4,
}

#: Two sets and a network for each, of a quarter of the width, with few iterations and epochs.
SHORT: Mapping[str, Any] = {
    "seeds": (1, 2),
    "source_seeds": (1, 2),
    "train_epochs": 201,
    "model.width": 32,
    "source.train_epochs": 1,
    "strategy.network": "ConvNetW32",
    "source.strategy.iterations": 300,
    "source.strategy.batch_real": 64,
}
#: The same for MTT, with a tenth of the experts.
SHORT_MTT: Mapping[str, Any] = {**SHORT, "source.strategy.num_experts": 10}
#: A set and a network, both tiny.
SMOKE: Mapping[str, Any] = {
    "seeds": (1,),
    "source_seeds": (1,),
    "train_epochs": 1,
    "model.width": 8,
    "strategy.network": "ConvNetW32",
    "source.strategy.iterations": 1,
    "source.strategy.batch_real": 4,
}
#: What MTT needs to be as tiny.
SMOKE_MTT: Mapping[str, Any] = {
    **SMOKE,
    "source.strategy.num_experts": 1,
    "source.strategy.expert_epochs": 1,
    "source.strategy.max_start_epoch": 1,
    "source.strategy.syn_steps": 1,
}


def label(method: Method, *, low_rank: bool) -> str:
    """Returns the label of a row, such as ``"LoDM"``."""
    return f"{'Lo' * low_rank}{method.upper()}"


def whole_stream(dataset: str) -> Component:
    """Returns the stream of a data set with all classes in one experience, which sets are condensed on."""
    normalized = {"normalize": True} if dataset in _NORMALIZED_ON_DEMAND else {}
    return Component(DATA[dataset], {"n_experiences": 1, "fixed_class_order": None, "seed": 0, **normalized})


def raw_row(name: str, method: Literal["random", "herding"], augmentation: str) -> Row:
    """Returns the row of samples that are kept as they are.

    Args:
        name: its label.
        method: how they are chosen.
        augmentation: in training on them.
    """
    return Row(name, Component("CondensedReplay", {"method": method, "augmentation": augmentation}))


def condensed_row(
    dataset: str,
    method: Method,
    budgets: Mapping[str, int],
    *,
    low_rank: bool,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    name: str | None = None,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
) -> Row:
    """Returns the row of a method with the published settings of a data set.

    Args:
        dataset: a name in :data:`DATA`.
        method: of condensation.
        budgets: which of the published settings, by the label of the column: those for so many images per class.
        low_rank: the low-rank form of the method.
        options: of the condensation, in place of those published.
        training: of the strategy, in place of the published augmentation and number of epochs.
        name: label of the row. Default: that of the method.
        seeds: of the condensed sets.
    """
    condensation, evaluation = {}, {}
    for column, images_per_class in budgets.items():
        settings = published_settings(dataset, method, images_per_class, low_rank=low_rank)
        del settings["images_per_class"]  # the column has the budget
        augmentation = settings.pop("augmentation", None)
        matching = {} if augmentation is None else {"matching_augmentation": augmentation}
        images: dict[str, Any] = {}
        if method == "mtt":
            settings["batch_syn"] = _STUDENT_BATCH
            if not low_rank and (dataset, images_per_class) in _WHITENED:
                images = {"stream": _WHITENED[dataset, images_per_class], "stream.whiten": True}
                images["stream.return_task_id"] = False
                settings |= {"mean": None, "std": None}
        settings = {"rank": 0, **settings, **matching, **(options or {})}
        condensation[column] = {**images, **{f"strategy.{key}": value for key, value in settings.items()}}
        if training is None:
            published = published_evaluation(dataset, method, augmentation=augmentation)
            evaluation[column] = {
                **images,
                "strategy.augmentation": published["augmentation"],
                "strategy.augmentation_family": published["family"],
                "train_epochs": published["epochs"] + 1,
            }
    return Row(
        name or label(method, low_rank=low_rank),
        Component("CondensedReplay", dict(training or {})),
        settings_by_column=evaluation,
        sources=Sources(
            Component("CondensedReplay"),
            tuple(seeds),
            {**_of_stream(whole_stream(dataset)), "train_epochs": 1},  # what is trained on it there does not count
            condensation,
            model=Component("ConvNet"),
        ),
    )


def _of_stream(stream: Component) -> dict[str, Any]:
    return {f"stream.{option}": value for option, value in stream.options.items()}
