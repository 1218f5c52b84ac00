"""What the tables of EpochLoss's paper have in common: its methods, with the settings of the authors' job scripts.

A row is trained and tested on clean images or, if it is called "attacked", on images attacked by PGD. The score of the
paper is the accuracy on natural test images of each task right after it was learned, averaged over the tasks:
``learning_accuracy`` or ``attacked_learning_accuracy``.

On GenImage the first task starts from weights trained on Tiny-ImageNet, as in the paper. Neither these weights nor how
they were trained is published; here it is the clean training of the other runs, on all classes at once, with the
validation images of Tiny-ImageNet for the learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clpack.experiments.config import Component, Row, Sources

__all__ = [
    "ACCURACIES",
    "DIGITS_SMOKE",
    "METHODS",
    "NETWORK",
    "PAPER",
    "PERCENTS",
    "PRETRAINING",
    "SHORT",
    "SMOKE",
    "TRAINING",
    "label",
    "row",
    "smoke_rows",
]

PAPER = (
    "J. Andle et al., Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning, "
    "CRyJiF03eT at OpenReview"
)
METHODS = ("No removal", "Caper", "EpochLoss", "Random")
PERCENTS = (20, 40, 60)
ACCURACIES = ("learning_accuracy", "attacked_learning_accuracy")

NETWORK = Component("GenImageResNet18", {"head": "multi"})
TRAINING: Mapping[str, Any] = {
    "train_epochs": 300,
    "train_mb_size": 128,
    "eval_mb_size": 128,
    "strategy.scoring_epochs": 50,
    "strategy.finetune_epochs": 150,
}
SHORT: Mapping[str, Any] = {
    "train_epochs": 30,
    "strategy.scoring_epochs": 10,
    "strategy.finetune_epochs": 15,
    "source.stream.subset": True,
}
SMOKE: Mapping[str, Any] = {
    "seeds": (1,),
    "train_epochs": 1,
    "strategy.scoring_epochs": 1,
    "strategy.finetune_epochs": 1,
    "strategy.attack_steps": 1,
    "model": "MNISTNet",
    "stream.n_experiences": 2,
}

_SGD: Mapping[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
_PLATEAU: Mapping[str, Any] = {"factor": 0.1, "min_lr": 1e-4, "patience": 20, "interval": 5}
_COMMON: Mapping[str, Any] = {**_SGD, "prune_fraction": 0.65, "bn": "shared", **_PLATEAU}
_ATTACK: Mapping[str, Any] = {"attack": "pgd", "attack_eps": 0.03, "attack_step_size": 0.0039, "attack_steps": 10}
_REMOVAL: Mapping[str, Mapping[str, Any]] = {
    "Caper": {"score": "caper", "class_cap": "balanced"},
    "EpochLoss": {"score": "epoch_loss", "class_cap": "balanced"},  # so in the authors' program, not in their text
    "Random": {"score": "random"},
}

PRETRAINING = Sources(
    Component("Plateau+Pretraining", {**_SGD, **_PLATEAU, "stream_name": "test"}),
    seeds=(1,),
    model=Component("GenImageResNet18"),
    stream=Component("SplitTinyImageNet", {"n_experiences": 1, "seed": 0}),
)
#: Digits in place of GenImage and Tiny-ImageNet, for smoke runs that need no data: the test images validate, and there
#: are no synthetic ones.
DIGITS_SMOKE: Mapping[str, Any] = {
    "stream": "SplitDigits",
    "stream.return_task_id": True,
    "stream.image_size": 16,
    "strategy.stream_name": "test",
    "source.stream": "SplitDigits",
    "source.stream.image_size": 16,
}


def label(method: str, *, attacked: bool, percent: int | None = None) -> str:
    """Returns the label of a row, such as ``"EpochLoss, 20 %, attacked"``."""
    removed = [] if percent is None or method not in _REMOVAL else [f"{percent} %"]
    return ", ".join([method, *removed, *["attacked"] * attacked])


def row(method: str, *, attacked: bool, percent: int | None = None, pretrained: bool = False) -> Row:
    """Returns the row of a method.

    Args:
        method: one of :data:`METHODS`.
        attacked: whether it trains and is tested on attacked images.
        percent: how much of the samples of each task is removed. Default: None, the columns say it.
        pretrained: whether the first task starts from weights trained on Tiny-ImageNet, as on GenImage, where random
            removal has no condition on classes either. Default: False.
    """
    options: dict[str, Any] = {**_COMMON, **_REMOVAL.get(method, {}), **(_ATTACK if attacked else {})}
    if percent is not None and method in _REMOVAL:
        options["remove_fraction"] = percent / 100
    if pretrained and method == "Random":
        options["min_per_class"] = 0  # as in the authors' program, whole classes may go
    parts = [*["Pruning"] * (method in _REMOVAL), "Subnetworks", *["Adversarial"] * attacked, "Plateau"]
    return Row(
        label(method, attacked=attacked, percent=percent),
        Component("+".join(parts), options),
        sources=PRETRAINING if pretrained else None,
    )


def smoke_rows(percent: int | None = None) -> tuple[str, ...]:
    """Returns the labels of the rows in the preset ``"smoke"``: every method once, clean or attacked."""
    return tuple(
        label(method, attacked=attacked, percent=percent)
        for method, attacked in (("No removal", True), ("Caper", False), ("EpochLoss", True), ("Random", False))
    )
