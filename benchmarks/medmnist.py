"""Split MedMNIST: the classes of a set of medical images, a few in each experience.

The sets are those of MedMNIST v2 [1] that have images and one label for each; with four experiences, the default,
BloodMNIST, PathMNIST, OrganAMNIST and TissueMNIST are split as in the experiments on class-specific impressions [2].
Two smaller sets of the same form serve where the official files are not at hand: ``wbc4`` and
``pneumoniamnist_partial``.

References:
    [1] J. Yang et al. MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification.
        Scientific Data 10, 2023, doi:10.1038/s41597-022-01721-8.
    [2] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import ClassificationScenario
from torch import Tensor
from torch.nn.functional import pad

from clpack.data import TensorImages

from ._class_order import FixedOrder, stream_order
from ._class_split import class_split
from ._medmnist_sets import find_set
from .files import check_files

__all__ = ["SplitMedMNIST", "check_options"]

_FRAME = 2  # black pixels on each side of an image of 28 x 28
_STREAMS = {"train": "train", "valid": "val", "test": "test"}  # and what the files call their images


def SplitMedMNIST(
    name: str,
    n_experiences: int = 4,
    *,
    size: int = 28,
    return_task_id: bool = False,
    seed: int | None = None,
    fixed_class_order: FixedOrder | None = None,
    shuffle: bool = False,
    class_ids_from_zero_in_each_exp: bool = False,
    class_ids_from_zero_from_first_exp: bool = False,
    train_transform: Callable[[Tensor], Tensor] | None = None,
    eval_transform: Callable[[Tensor], Tensor] | None = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> ClassificationScenario:
    """Shares the classes of a medical data set out among the experiences.

    Streams: ``train``, ``valid`` and ``test``, as the file divides the images. If the classes do not divide evenly,
    the first experiences have one more than the others: 3, 2, 2, 2 of the 9 classes of PathMNIST. Images are float32
    in [0, 1], not normalized. Those of 28x28 pixels get a black frame of 2, as the authors of [2] have it (they pad
    by 4 and crop the central 32x32); larger ones stay as they are.

    Args:
        name: ``"bloodmnist"``, ``"pathmnist"``, ``"organamnist"``, ``"tissuemnist"``, ``"organcmnist"``,
            ``"organsmnist"``, ``"dermamnist"``, ``"octmnist"``, ``"retinamnist"``, ``"pneumoniamnist"`` or
            ``"breastmnist"``; ``"wbc4"``, four kinds of white blood cells, or ``"pneumoniamnist_partial"``.
        n_experiences: number of experiences, at most that of the classes. Default: 4.
        size: width of the images in the file, 28, 64, 128 or 224. Default: 28, the only one of the last two sets.
        return_task_id: True labels the experiences 0, 1, ...; False labels all of them 0.
        seed: seed of the class order; None takes the order that the present state of torch's global generator gives.
            Only for ``shuffle=True`` and ``fixed_class_order="numpy"``.
        fixed_class_order: the classes in the order wanted, all or a part of them, or ``"numpy"``: the permutation of
            NumPy's legacy generator for ``seed``.
        shuffle: False, the default, keeps the classes in ascending order.
        class_ids_from_zero_in_each_exp: True numbers the classes of each experience from 0.
        class_ids_from_zero_from_first_exp: True numbers the classes in the order in which they appear. Excludes
            ``class_ids_from_zero_in_each_exp``.
        train_transform: applied to each training image; None for nothing.
        eval_transform: applied to each validation and test image; None for nothing.
        dataset_root: folder of the data sets; None means the environment variable ``CLPACK_DATA``, and if that is
            unset, ``~/.clpack``.

    Returns:
        The benchmark, of Avalanche's classic family; its attribute ``data_description`` says which data it has.

    Raises:
        TypeError, ValueError: if an argument has an impossible value, or the file another content than it should have.
        FileNotFoundError: if the file is missing; the message says where to get it.
    """
    arguments = locals()
    check_options(arguments)
    data = find_set(name, size)
    order = stream_order(arguments, n_classes=data.n_classes, evenly=False)
    root = check_files(data.data_set(size), dataset_root)
    return class_split(
        _read(root / data.file(size)),
        order,
        arguments,
        data_description=f"{data.description}, {size} x {size} pixels",
    )


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments that only this stream has, by name.

    Raises:
        TypeError, ValueError: if one has an impossible value.
    """
    find_set(arguments["name"], arguments["size"])


def _read(path: Path) -> dict[str, TensorImages]:
    """Returns the images of each stream, ``(N, C, H, W)`` of 8 bits, with their labels."""
    streams = {}
    with np.load(path, allow_pickle=False) as arrays:
        for stream, part in _STREAMS.items():
            images = torch.from_numpy(arrays[f"{part}_images"])
            images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
            if images.shape[-1] == 28:
                images = pad(images, (_FRAME,) * 4)
            streams[stream] = TensorImages(images, torch.from_numpy(arrays[f"{part}_labels"]).flatten())
    return streams
