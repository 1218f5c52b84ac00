"""Split streams as the experiments with TAG have them: classes in their order, pixels in [0, 1], nothing augmented.

Avalanche's own functions shuffle the classes, crop, flip and normalize unless told otherwise. These do none of it, and
their images lie in memory. Whitened on demand, they are what trajectory matching has been applied to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from avalanche.benchmarks import ClassificationScenario
from torch import Tensor

from clpack.condensation import ZCA
from clpack.data import TensorImages

from ._class_order import FixedOrder, stream_order
from ._class_split import TO_FLOAT, class_split
from ._readers import read_cifar, read_cifar10_jpeg
from ._substitution import check_flags
from .files import check_files
from .registry import describe

__all__ = ["PlainSplitCIFAR100", "SplitCIFAR10JPEG", "check_options"]


def _plain(
    name: str, title: str, default_n_experiences: int, read: Callable[[Path], tuple[TensorImages, TensorImages]]
) -> Callable[..., ClassificationScenario]:
    """Returns the function that opens a stream.

    Args:
        name: of the stream.
        title: of its data.
        default_n_experiences: the default number of experiences.
        read: returns the training and test images below a dataset root.
    """
    info = describe(name)

    def open_stream(
        n_experiences: int = default_n_experiences,
        *,
        whiten: bool = False,
        return_task_id: bool = True,
        seed: int | None = None,
        fixed_class_order: FixedOrder | None = None,
        shuffle: bool = False,
        class_ids_from_zero_in_each_exp: bool = False,
        class_ids_from_zero_from_first_exp: bool = False,
        train_transform: Callable[[Tensor], Tensor] | None = None,
        eval_transform: Callable[[Tensor], Tensor] | None = None,
        dataset_root: str | os.PathLike[str] | None = None,
    ) -> ClassificationScenario:
        arguments = locals()
        check_options(arguments)
        order = stream_order(arguments, n_classes=info.n_classes)
        train, test = read(check_files(info.data_sets[0], dataset_root))
        if whiten:
            transform = _whitening(train.images)
            train, test = (TensorImages(transform(TO_FLOAT(part.images)), part.targets) for part in (train, test))
        description = f"{title}, whitened" if whiten else title
        return class_split({"train": train, "test": test}, order, arguments, data_description=description)

    open_stream.__name__ = open_stream.__qualname__ = name
    open_stream.__doc__ = f"""Shares the {info.n_classes} classes of {title} out among the experiences.

    Images are float32 of shape ``{info.image_shape}`` with values in [0, 1], not normalized.

    Args:
        n_experiences: number of experiences, which must share the classes evenly. Default: {default_n_experiences}.
        whiten: True whitens all images by ``ZCA`` of :mod:`clpack.condensation`, fitted on the training images of all
            classes. Default: False.
        return_task_id: True, the default, labels the experiences 0, 1, ...; False labels all of them 0.
        seed: seed of the class order; None takes the order that the present state of torch's global generator gives.
            Only for ``shuffle=True`` and ``fixed_class_order="numpy"``.
        fixed_class_order: the classes in the order wanted, all or a part of them, or ``"numpy"``: the permutation of
            NumPy's legacy generator for ``seed``.
        shuffle: False, the default, keeps the classes in ascending order.
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
    return open_stream


def _whitening(images: Tensor) -> ZCA:
    """Returns what whitens, fitted on 8-bit images; applied in float32.

    It is fitted in float64, of which rounding takes away nearly all that depends on the number of threads.
    """
    whitening = ZCA(TO_FLOAT(images).double())
    whitening.mean, whitening.matrix = whitening.mean.float(), whitening.matrix.float()
    return whitening


def check_options(arguments: Mapping[str, Any]) -> None:
    """Raises unless the arguments that only streams of this module take are possible."""
    check_flags(arguments, "whiten")


PlainSplitCIFAR100 = _plain("PlainSplitCIFAR100", "CIFAR-100", 20, partial(read_cifar, "CIFAR100"))
SplitCIFAR10JPEG = _plain("SplitCIFAR10JPEG", "CIFAR-10 (JPEG)", 5, read_cifar10_jpeg)
