"""What the tables of CCSI have in common: its rivals, with and without data of the past, and the training.

All methods have the same network, batches and epochs, and one head for all classes seen. CCSI has cosine outputs, the
others linear ones; impressions without CCSI (CI) and from noise (DeepInversion) have batch normalization, as their
authors have. The columns of MedMNIST have the settings of the released configurations, which differ from task to task;
the others have the number of impressions and the total variation of most of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clpack.experiments.config import Column, Component, Row

__all__ = ["MEDMNIST_OF_CCSI", "METRICS", "PAPER", "ROWS", "SMOKE", "column", "medmnist_column"]

PAPER = (
    "S. Ayromlou et al., CCSI: Continual Class-Specific Impression for Data-free Class Incremental Learning, "
    "arXiv:2406.05631"
)
METRICS = ("average_accuracy", "forgetting", "learning_accuracy")
_PER_CLASS = 20  # samples that methods with a memory keep of each class

# Classes, and as released for the second to the fourth task: batches of impressions, their total variation.
_MEDMNIST = {
    "BloodMNIST": (8, [16, 24, 30], [0.01, 0.001, 0.01]),
    "PathMNIST": (9, [16, 25, 35], [0.01, 0.01, 0.001]),
    "OrganAMNIST": (11, [16, 24, 30], [0.1, 0.001, 0.1]),
    "TissueMNIST": (8, [16, 24, 30], [0.01, 0.001, 0.001]),
}
MEDMNIST_OF_CCSI: Mapping[str, Mapping[str, Any]] = {
    "BloodMNIST": {"strategy.rho": [0.9, 0.999, 0.9]},
    "PathMNIST": {"strategy.rho": [0.99, 0.9, 0.9]},
    "OrganAMNIST": {
        "strategy.rho": [0.9, 0.99, 0.9],
        "strategy.temperature": [1.0, 5.0, 1.0],
        "strategy.synthetic_fraction": [0.66, 0.66, 0.5],
    },
    "TissueMNIST": {"strategy.rho": [0.99, 0.99, 0.9], "strategy.temperature": [1.0, 5.0, 5.0]},
}
"""What else is released for the columns of MedMNIST, for rows of CCSI: others have options of these names too."""

_BATCH_NORM = {"model.norm": "batch"}

ROWS = (
    Row("Fine-tuning", Component("Naive")),
    Row("LwF", Component("LwF")),
    Row("EWC", Component("EWC", {"ewc_lambda": 1})),
    Row("DeepInversion", Component("ClassImpressions", {"init": "noise"}), _BATCH_NORM),
    Row("CI", Component("ClassImpressions", {"init": "mean"}), _BATCH_NORM),
    Row("CCSI", Component("CCSI"), {"model.head": "cosine"}),
    Row("Replay, 20 per class", Component("Replay", {"policy": "class_balanced"})),
    Row("iCaRL, 20 per class", Component("iCaRL")),
    Row("Joint training", Component("Cumulative"), upper_bound=True),
)
SMOKE: Mapping[str, Any] = {
    "seeds": (1,),
    "train_epochs": 1,
    "strategy.iterations": 2,
    "strategy.images_per_class": 4,
    "rows": ("LwF", "DeepInversion", "CCSI", "Replay, 20 per class"),
}


def column(
    label: str, stream: Component, n_classes: int, *, options: Mapping[str, Any] | None = None, flip: bool = True
) -> Column:
    """Returns the column of a stream.

    Args:
        label: its head.
        stream: class-incremental, images of about 32 pixels in [0, 1].
        n_classes: of the stream.
        options: further settings.
        flip: whether impressions are mirrored; not for classes that a mirror changes.
    """
    return Column(
        label,
        stream,
        Component("CCSIResNet", {"head": "incremental"}),
        {
            "train_epochs": 100,
            "train_mb_size": 40,
            "eval_mb_size": 256,
            "strategy.lr": 0.1,
            "strategy.iterations": 5000,
            "strategy.images_per_class": 200,
            "strategy.tv_l2": 0.01,
            "strategy.flip": flip,
            "strategy.mem_size": _PER_CLASS * n_classes,
            **(options or {}),
        },
    )


def medmnist_column(name: str) -> Column:
    """Returns the column of a set of MedMNIST in four steps, with the released impressions of each task."""
    n_classes, num_batches, tv_l2 = _MEDMNIST[name]
    return column(
        name,
        Component("SplitMedMNIST", {"name": name.lower(), "n_experiences": 4}),
        n_classes,
        options={"strategy.images_per_class": None, "strategy.num_batches": num_batches, "strategy.tv_l2": tv_l2},
    )
