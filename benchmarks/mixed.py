"""Mixed CIFAR-100 and permuted MNIST: tasks of natural objects and of digits in turn.

The small benchmark in the program of the EpochLoss authors (JoshuaAndle/EpochLoss_CL), without published results. As
there, the training images of CIFAR-100 are cropped and flipped at random once, when the stream is opened.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from avalanche.benchmarks import ClassificationScenario
from torch import Tensor
from torch.nn.functional import pad
from torchvision.datasets import CIFAR100, MNIST
from torchvision.transforms import ConvertImageDtype
from torchvision.transforms.functional import resize

from clpack.data import TensorImages
from clpack.randomness import generator_for

from ._class_order import check_n_experiences, check_seed
from ._substitution import (
    check_val_fraction,
    drawn_seed,
    hold_out,
    in_evaluation_order,
    streams_benchmark,
    task_dataset,
)
from .files import check_files, resolve_dataset_root

__all__ = ["MixedCIFARPermutedMNIST", "check_options"]

_FIRST_CIFAR_CLASS = {0: 0, 2: 20, 4: 60}  # of the 20 classes of each of these tasks; the others are MNIST
_N_TASKS = 6
_PER_CLASS = 1000  # images, at most
_SIDE = 32
_PADDING = 4


def MixedCIFARPermutedMNIST(
    n_experiences: int = _N_TASKS,
    *,
    return_task_id: bool = True,
    class_ids_from_zero_in_each_exp: bool = True,
    seed: int | None = 0,
    val_fraction: float = 0.1,
    train_transform: Callable[[Tensor], Tensor] | None = None,
    eval_transform: Callable[[Tensor], Tensor] | None = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> ClassificationScenario:
    """Six tasks: 20 classes of CIFAR-100 (0-19, 20-39, 60-79) and, after each, the ten digits with permuted pixels.

    Images have shape ``(3, 32, 32)`` and values in [0, 1], not normalized; there are at most 1000 of each class in
    training and in testing. The training images of CIFAR-100 are cropped at random (padding 4) and flipped, once. The
    digits are resized to 32x32 and permuted in tasks 1, 3, 5 by ``torch.randperm(1024)`` of the seed 1, 3, 5. Streams:
    ``train``; ``valid``, held out from it; ``test``. Validation and test images are in a fixed random order.

    Args:
        n_experiences: the number of tasks, from the first one on: 1 to 6.
        return_task_id: True labels the experiences 0, 1, ...; False labels all of them 0.
        class_ids_from_zero_in_each_exp: True gives the labels 0..19 or 0..9 in each task; False gives each class of
            each task a label of its own, 0..89.
        seed: seed of crops, flips and the choice of validation images; None draws it from the present state of
            torch's global generator, which stays as it is.
        val_fraction: the part of the training images of each class that is held out for validation, in [0, 1);
            0 leaves out the stream ``valid``.
        train_transform: applied to each training image; None for nothing.
        eval_transform: applied to each validation and test image; None for nothing.
        dataset_root: folder of CIFAR-100 and MNIST; None takes ``CLPACK_DATA`` or ``~/.clpack``.

    Returns:
        The benchmark, of Avalanche's classic family.

    Raises:
        TypeError, ValueError: if an argument has an impossible value, or a file another content than it should have.
        FileNotFoundError: if a file is missing.
    """
    check_options(locals())
    seed = drawn_seed(seed)
    root = resolve_dataset_root(dataset_root)
    for data_set in ("CIFAR100", "MNIST"):
        check_files(data_set, root)
    streams: dict[str, list[Any]] = {"train": [], "test": [], "valid": []}
    first_label = 0
    for task in range(n_experiences):
        as_dataset = functools.partial(
            task_dataset,
            task_label=task if return_task_id else 0,
            pixels=ConvertImageDtype(torch.float32),
            train_transform=train_transform,
            eval_transform=eval_transform,
        )
        n_classes, read = (20, _cifar) if task in _FIRST_CIFAR_CLASS else (10, _permuted_mnist)
        train, train_labels = read(root, task, train=True)
        test, test_labels = read(root, task, train=False)
        if task in _FIRST_CIFAR_CLASS:
            train = _cropped_and_flipped(train, generator_for(seed, "augmentation", task))
        dataset = as_dataset(TensorImages(train, train_labels + first_label))
        if val_fraction:
            kept, held_out = hold_out(train_labels, val_fraction, generator_for(seed, "validation images", task))
            streams["valid"].append(in_evaluation_order(dataset.subset(held_out.tolist())))
            dataset = dataset.subset(kept.tolist())
        streams["train"].append(dataset.train())
        streams["test"].append(in_evaluation_order(as_dataset(TensorImages(test, test_labels + first_label))))
        if not class_ids_from_zero_in_each_exp:
            first_label += n_classes
    return streams_benchmark(
        {name: datasets for name, datasets in streams.items() if datasets},
        "CIFAR-100 and MNIST, at most 1000 images per class",
    )


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments of the stream, by name.

    Raises:
        TypeError, ValueError: if one has an impossible value.
    """
    check_n_experiences(arguments["n_experiences"])
    if arguments["n_experiences"] > _N_TASKS:
        raise ValueError(f"n_experiences must be at most {_N_TASKS}, got {arguments['n_experiences']}")
    if arguments["seed"] is not None:
        check_seed(arguments["seed"])
    check_val_fraction(arguments["val_fraction"])


def _cifar(root: os.PathLike[str], task: int, *, train: bool) -> tuple[Tensor, Tensor]:
    """Returns images ``(N, 3, 32, 32)`` of 20 classes, and their labels 0..19."""
    data = CIFAR100(root, train=train)
    images, labels = torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)
    first = _FIRST_CIFAR_CLASS[task]
    rows = ((labels >= first) & (labels < first + 20)).nonzero().flatten()
    rows = rows[_first_of_each_class(labels[rows])]
    return images[rows], labels[rows] - first


def _permuted_mnist(root: os.PathLike[str], task: int, *, train: bool) -> tuple[Tensor, Tensor]:
    """Returns images ``(N, 3, 32, 32)`` of the digits with their pixels permuted, and their labels."""
    data = MNIST(root, train=train)
    rows = _first_of_each_class(data.targets)
    images = resize(data.data[rows].unsqueeze(1), [_SIDE, _SIDE], antialias=True)
    permutation = torch.randperm(_SIDE * _SIDE, generator=torch.Generator().manual_seed(task))
    permuted = images.flatten(1)[:, permutation].view(-1, 1, _SIDE, _SIDE)
    return permuted.expand(-1, 3, -1, -1), data.targets[rows]


def _first_of_each_class(labels: Tensor) -> Tensor:
    """Returns the rows, ascending, of the first 1000 samples of each class."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return by_class[rank < _PER_CLASS].sort().values


def _cropped_and_flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops 32x32 pixels at random out of each image padded by 4 zeros, and mirrors every other image."""
    n = len(images)
    corner = torch.randint(2 * _PADDING + 1, (2, n, 1), generator=generator)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    pixels = torch.arange(_SIDE)
    rows = corner[0] + pixels
    columns = corner[1] + torch.where(flip, pixels.flip(0), pixels)
    padded = pad(images, (_PADDING,) * 4)
    picked = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()
