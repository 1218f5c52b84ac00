"""Published settings of dataset condensation: normalization, condensation and evaluation for each data set.

They are plain values: this module imports no torch, so that tables can be listed at once.

References:
    [1] E. Yang et al. An Efficient Dataset Condensation Plugin and Its Application to Continual Learning. NeurIPS 2023.
        Authors' code, whose documentation lists the low-rank settings:
        github.com/EnnengYang/An-Efficient-Dataset-Condensation-Plugin.
    [2] B. Zhao, H. Bilen. DC, DSA and DM: github.com/VICO-UoE/DatasetCondensation (MIT).
    [3] G. Cazenavette et al. Dataset Distillation by Matching Training Trajectories. CVPR 2022, arXiv:2203.11932.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clpack.names import unknown_name

if TYPE_CHECKING:
    from clpack.condensation.condense import Method

__all__ = ["DSA_DIGITS", "DSA_NATURAL", "NORMALIZATION", "published_evaluation", "published_settings"]

DSA_NATURAL = "color_crop_cutout_flip_scale_rotate"
"""The strategy of [2] for natural images and Fashion-MNIST."""
DSA_DIGITS = "color_crop_cutout_scale_rotate"
"""The strategy of [2] for digits, which must not be mirrored."""

NORMALIZATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny_imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of each channel, of pixels in [0, 1], for each data set."""

_DIGITS = ("mnist", "svhn")

# (data set, method, images per class) -> rank and what differs from the defaults of the method.
_LOW_RANK: dict[tuple[str, str, int], dict[str, Any]] = {
    ("cifar10", "dm", 1): {"rank": 2},
    ("cifar10", "dm", 10): {"rank": 2},
    ("cifar10", "dm", 50): {"rank": 4, "lr_img": 1000.0},
    ("cifar10", "dsa", 1): {"rank": 2},
    ("cifar10", "dc", 1): {"rank": 2},
    ("cifar10", "dc", 10): {"rank": 2},
    ("cifar10", "mtt", 1): {"rank": 2},
    ("cifar100", "dm", 1): {"rank": 2},
    ("cifar100", "dm", 10): {"rank": 2},
    ("cifar100", "dsa", 1): {"rank": 2},
    ("cifar100", "dsa", 10): {"rank": 8},
    ("cifar100", "dc", 1): {"rank": 2},
    ("cifar100", "dc", 10): {"rank": 2},
    ("mnist", "dm", 1): {"rank": 2, "augmentation": DSA_NATURAL},
    ("mnist", "dm", 10): {"rank": 8, "augmentation": "none"},
    ("mnist", "dm", 50): {"rank": 8, "augmentation": "none"},
    ("mnist", "dsa", 1): {"rank": 2, "augmentation": DSA_NATURAL},
    ("mnist", "dsa", 10): {"rank": 2, "augmentation": DSA_NATURAL},
    ("mnist", "dsa", 50): {"rank": 8, "augmentation": "none"},
    ("mnist", "dc", 1): {"rank": 2},
    ("mnist", "dc", 10): {"rank": 2},
    ("tiny_imagenet", "dm", 1): {"rank": 4},
    ("tiny_imagenet", "dm", 10): {"rank": 4},
}
_TRAJECTORIES: dict[tuple[str, int], dict[str, Any]] = {
    ("cifar10", 1): {"syn_steps": 50, "max_start_epoch": 5, "lr_lr": 1e-7, "lr_teacher": 1e-2},
    ("cifar10", 10): {"syn_steps": 30, "max_start_epoch": 15, "lr_lr": 1e-5, "lr_teacher": 1e-2},
    ("cifar10", 50): {"syn_steps": 30, "max_start_epoch": 40, "lr_lr": 1e-5, "lr_teacher": 1e-3},
    ("cifar100", 1): {"syn_steps": 20, "max_start_epoch": 20, "lr_lr": 1e-5, "lr_teacher": 1e-2, "expert_epochs": 3},
}


def published_settings(dataset: str, method: Method, images_per_class: int, *, low_rank: bool = True) -> dict[str, Any]:
    """Returns the arguments of :func:`condense` that the authors publish for a data set.

    Where nothing is published, these are the defaults of the method, with rank 2, which [1] uses in most cases. MNIST's
    augmentation includes mirroring in the low-rank settings of [1], but not in [2].

    Args:
        dataset: one of :data:`NORMALIZATION`.
        method: ``"dc"``, ``"dsa"``, ``"dm"`` or ``"mtt"``. Those of the last for CIFAR-100 are for data whitened by
            :class:`ZCA`.
        images_per_class: the budget, in plain images.
        low_rank: the low-rank form [1], or the plain one [2, 3].

    Raises:
        ValueError: if there is no such data set.
    """
    mean, std = _normalization(dataset)
    arguments: dict[str, Any] = {"method": method, "images_per_class": images_per_class, "mean": mean, "std": std}
    if method != "dc" and dataset in _DIGITS:
        arguments["augmentation"] = DSA_DIGITS
    if method == "mtt":
        arguments |= _TRAJECTORIES.get((dataset, images_per_class), {})
    if low_rank:
        arguments |= _LOW_RANK.get((dataset, method, images_per_class), {"rank": 2})
    elif method == "dm" and dataset == "cifar10" and images_per_class >= 100:
        arguments["lr_img"] = 10.0
    return arguments


def published_evaluation(
    dataset: str, method: Method, *, augmentation: str | None = None, network: str = "ConvNet"
) -> dict[str, Any]:
    """Returns the arguments of :func:`evaluate` of the authors' protocol [2]: epochs and augmentation.

    Args:
        dataset: one of :data:`NORMALIZATION`.
        method: that made the set.
        augmentation: with which it was made, and with which networks are trained then; with ``"none"`` that is chosen
            as for DC. Default: as in [2], with all operations, but for DC.
        network: the name of the network to be trained.

    Raises:
        ValueError: if there is no such data set.
    """
    _normalization(dataset)
    if augmentation is None:
        augmentation = "none" if method == "dc" else DSA_DIGITS if dataset in _DIGITS else DSA_NATURAL
    if augmentation != "none":
        return {"epochs": 1000, "augmentation": augmentation, "family": "dsa"}
    if network == "ConvNetBN":
        return {"epochs": 1000, "augmentation": "crop_noise", "family": "dc"}
    if dataset == "mnist":
        return {"epochs": 1000, "augmentation": "crop_scale_rotate", "family": "dc"}
    return {"epochs": 1000 if method == "dm" else 300, "augmentation": "none", "family": "dc"}


def _normalization(dataset: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if dataset not in NORMALIZATION:
        raise ValueError(unknown_name("data set", dataset, NORMALIZATION))
    return NORMALIZATION[dataset]
