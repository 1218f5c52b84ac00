"""Streams over scikit-learn's handwritten digits: real images that need no files of their own.

1797 grey images of 8x8 pixels, of which 1437 are for training and 360 for testing, the same ones in both streams.
Images are float32 tensors of shape ``(1, 8, 8)`` with values in [0, 1].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from avalanche.benchmarks import NCScenario, nc_benchmark
from avalanche.benchmarks.utils import DefaultTransformGroups, _make_taskaware_classification_dataset
from avalanche.benchmarks.utils.data import make_avalanche_dataset
from sklearn.datasets import load_digits
from torch import Tensor

from clpack.data import PixelPermutation, TensorImages

from ._class_order import FixedOrder, check_n_experiences, check_seed, class_order, generator_for_seed
from .registry import describe

__all__ = ["PermutedDigits", "SplitDigits", "check_options"]

_N_TRAIN = 1437
_N_CLASSES = 10
_SIDE = 8
_N_PIXELS = _SIDE**2


def SplitDigits(
    n_experiences: int = 5,
    *,
    return_task_id: bool = False,
    seed: int | None = None,
    fixed_class_order: FixedOrder | None = None,
    shuffle: bool = True,
    class_ids_from_zero_in_each_exp: bool = False,
    class_ids_from_zero_from_first_exp: bool = False,
    image_size: int = 8,
    train_transform: Callable[[Tensor], Tensor] | None = None,
    eval_transform: Callable[[Tensor], Tensor] | None = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> NCScenario:
    """Shares the ten digits out among the experiences, each digit to one of them.

    The class-incremental form is the default; ``return_task_id=True`` gives the task-incremental one. For the same
    arguments the class order is the one of Avalanche's own streams; no global generator is drawn from or reseeded.

    Args:
        n_experiences: number of experiences: 1, 2, 5 or 10, or a divisor of the length of ``fixed_class_order``.
        return_task_id: True labels the experiences 0, 1, ...; False labels all of them 0.
        seed: seed of the class order; None takes the order that the present state of torch's global generator gives.
        fixed_class_order: the classes in the order wanted, all or a part of them, or ``"numpy"``: the permutation of
            NumPy's legacy generator for ``seed``. ``shuffle`` and, for a list, ``seed`` then
            play no part.
        shuffle: False keeps the classes in ascending order.
        class_ids_from_zero_in_each_exp: True numbers the classes of each experience from 0.
        class_ids_from_zero_from_first_exp: True numbers the classes in the order in which they appear. Excludes
            ``class_ids_from_zero_in_each_exp``.
        image_size: side of the images, for networks that need more than 8 pixels; they are enlarged bilinearly.
        train_transform: applied to each training image; None for nothing.
        eval_transform: applied to each test image; None for nothing.
        dataset_root: without effect, the images come with scikit-learn; here because every stream takes it.

    Returns:
        The benchmark, of Avalanche's classic family.

    Raises:
        TypeError: if ``n_experiences``, ``seed`` or a class is not an integer.
        ValueError: if the experiences cannot share the classes evenly, the seed is out of range, the fixed order names
            a class twice or one that does not exist, both ``class_ids_from_zero_...`` are True, or ``image_size`` is
            below 8.
    """
    check_options({"image_size": image_size})
    order = class_order(_N_CLASSES, n_experiences, seed=seed, shuffle=shuffle, fixed_class_order=fixed_class_order)
    train, test = _digits(image_size)
    return nc_benchmark(
        train,
        test,
        n_experiences=n_experiences,
        task_labels=return_task_id,
        fixed_class_order=order,
        class_ids_from_zero_in_each_exp=class_ids_from_zero_in_each_exp,
        class_ids_from_zero_from_first_exp=class_ids_from_zero_from_first_exp,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )


def PermutedDigits(
    n_experiences: int = 8,
    *,
    return_task_id: bool = False,
    seed: int | None = 0,
    class_ids_from_zero_in_each_exp: bool = True,
    train_transform: Callable[[Tensor], Tensor] | None = None,
    eval_transform: Callable[[Tensor], Tensor] | None = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> NCScenario:
    """Shows all digits in every experience, each time with the pixels in another fixed order.

    Experience 0 keeps the pixels in place. In experience ``i >= 1`` output pixel ``k`` is input pixel ``p[k]`` with
    ``p = numpy.random.RandomState(1000 * seed + i).permutation(64)``. Three forms:

    * domain-incremental (default): the same ten labels everywhere;
    * task-incremental: the same with ``return_task_id=True``;
    * task-incremental with a class of its own for each digit of each experience, ``10 * i + digit``:
      ``return_task_id=True, class_ids_from_zero_in_each_exp=False``.

    Args:
        n_experiences: number of experiences, at least 1.
        return_task_id: True labels the experiences 0, 1, ...; False labels all of them 0.
        seed: chooses the permutations as stated above, 0 to 4 000 000; None draws it from the present state of torch's
            global generator, which stays as it is.
        class_ids_from_zero_in_each_exp: True gives the labels 0..9 in each experience, False gives
            ``10 * i + digit`` in experience ``i``.
        train_transform: applied to each permuted training image; None for nothing.
        eval_transform: applied to each permuted test image; None for nothing.
        dataset_root: without effect, the images come with scikit-learn; here because every stream takes it.

    Returns:
        The benchmark, of Avalanche's classic family. The permutation is a frozen transform of each experience's
        data set, a :class:`clpack.data.PixelPermutation`.

    Raises:
        TypeError: if ``n_experiences`` or ``seed`` is not an integer.
        ValueError: if ``n_experiences`` or ``seed`` is out of range.
    """
    check_n_experiences(n_experiences)
    largest_seed = describe("PermutedDigits").largest_seed
    if seed is None:
        seed = int(torch.randint(largest_seed + 1, (), generator=generator_for_seed(None)))
    check_seed(seed, largest_seed)
    permutations = [torch.arange(_N_PIXELS)]
    permutations += [torch.from_numpy(_legacy_permutation(1000 * seed + i, _N_PIXELS)) for i in range(1, n_experiences)]
    train, test = _digits()
    return nc_benchmark(
        [_permuted(train, permutation) for permutation in permutations],
        [_permuted(test, permutation) for permutation in permutations],
        n_experiences=n_experiences,
        task_labels=return_task_id,
        shuffle=False,
        one_dataset_per_exp=True,
        class_ids_from_zero_in_each_exp=class_ids_from_zero_in_each_exp,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )


def _permuted(images: TensorImages, permutation: Tensor) -> Any:
    """Returns ``images`` as an Avalanche data set whose every use sees the pixels permuted."""
    return make_avalanche_dataset(
        _make_taskaware_classification_dataset(images),
        frozen_transform_groups=DefaultTransformGroups((PixelPermutation(permutation), None)),
    )


def check_options(arguments: Mapping[str, Any]) -> None:
    """Raises unless the arguments that only streams of this module take are possible."""
    size = arguments.get("image_size", _SIDE)
    if isinstance(size, bool) or not isinstance(size, int) or size < _SIDE:
        raise ValueError(f"image_size must be an integer of at least {_SIDE} pixels, got {size!r}")


def _digits(image_size: int = 8) -> tuple[TensorImages, TensorImages]:
    """Returns the training and the test images."""
    pixels, labels = load_digits(return_X_y=True)
    order = _legacy_permutation(0, len(labels))
    images = torch.from_numpy(pixels[order] / 16).float().view(-1, 1, _SIDE, _SIDE)
    if image_size != _SIDE:
        images = F.interpolate(images, size=image_size, mode="bilinear", align_corners=False)
    labels = labels[order]
    return (
        TensorImages(images[:_N_TRAIN], labels[:_N_TRAIN]),
        TensorImages(images[_N_TRAIN:], labels[_N_TRAIN:]),
    )


def _legacy_permutation(seed: int, n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    # NumPy's frozen legacy generator: the published results on these streams were made with its permutations.
    return np.random.RandomState(seed).permutation(n)
