"""Split SVHN: the house numbers of Street View, one digit in the middle of each image.

References:
    Y. Netzer et al. Reading Digits in Natural Images with Unsupervised Feature Learning. NIPS Workshop on Deep Learning
    and Unsupervised Feature Learning, 2011.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from avalanche.benchmarks import ClassificationScenario
from torch import Tensor

from ._class_order import FixedOrder, stream_order
from ._class_split import class_split, to_pixels
from ._readers import read_svhn
from ._substitution import check_flags
from .files import check_files

__all__ = ["SplitSVHN", "check_options"]


def SplitSVHN(
    n_experiences: int = 5,
    *,
    normalize: bool = False,
    return_task_id: bool = False,
    seed: int | None = None,
    fixed_class_order: FixedOrder | None = None,
    shuffle: bool = True,
    class_ids_from_zero_in_each_exp: bool = False,
    class_ids_from_zero_from_first_exp: bool = False,
    train_transform: Callable[[Tensor], Tensor] | None = None,
    eval_transform: Callable[[Tensor], Tensor] | None = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> ClassificationScenario:
    """Shares the ten digits of SVHN out among the experiences, by default two to each of five.

    There are 73257 training and 26032 test images, float32 of shape ``(3, 32, 32)``; classes are the digits, where the
    files call the digit 0 ten.

    Args:
        n_experiences: number of experiences, which must share the classes evenly. Default: 5.
        normalize: True subtracts the mean and divides by the standard deviation of each channel, those of
            :data:`clpack.condensation.NORMALIZATION`; False, the default, gives values in [0, 1].
        return_task_id: True labels the experiences 0, 1, ...; False, the default, labels all of them 0.
        seed: seed of the class order; None takes the order that the present state of torch's global generator gives.
            Only for ``shuffle=True`` and ``fixed_class_order="numpy"``.
        fixed_class_order: the classes in the order wanted, all or a part of them, or ``"numpy"``: the permutation of
            NumPy's legacy generator for ``seed``.
        shuffle: True, the default, puts the classes in random order.
        class_ids_from_zero_in_each_exp: True numbers the classes of each experience from 0.
        class_ids_from_zero_from_first_exp: True numbers the classes in the order in which they appear. Excludes
            ``class_ids_from_zero_in_each_exp``.
        train_transform: applied to each training image; None for nothing.
        eval_transform: applied to each test image; None for nothing.
        dataset_root: folder of the data sets; None means the environment variable ``CLPACK_DATA``, and if that is
            unset, ``~/.clpack``.

    Returns:
        The benchmark, of Avalanche's classic family; its attribute ``data_description`` says which data it has.

    Raises:
        TypeError, ValueError: if an argument has an impossible value, or a file another content than it should have.
        FileNotFoundError: if a file is missing; the message says where to get it.
    """
    arguments = locals()
    check_options(arguments)
    order = stream_order(arguments, n_classes=10)
    train, test = read_svhn(check_files("SVHN", dataset_root))
    return class_split(
        {"train": train, "test": test},
        order,
        arguments,
        pixels=to_pixels("svhn" if normalize else None),
        data_description="SVHN",
    )


def check_options(arguments: Mapping[str, Any]) -> None:
    """Raises unless the arguments that only this stream takes are possible."""
    check_flags(arguments, "normalize")
