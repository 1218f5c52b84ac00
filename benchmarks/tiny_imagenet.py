"""Split Tiny-ImageNet-100: a stream of many tasks from a small part of Tiny-ImageNet.

It stands in for Split-CIFAR100 or Split-miniImageNet where these are not at hand. The data are the first 80 training
images of each class of Tiny-ImageNet [1], and the first 20 validation images for testing.

References:
    [1] Y. Le, X. Yang. Tiny ImageNet Visual Recognition Challenge. Stanford CS 231N, 2015.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from avalanche.benchmarks import ClassificationScenario
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clpack.data import TensorImages

from ._class_order import FixedOrder, stream_order
from ._class_split import TO_FLOAT, class_split
from ._readers import decoded
from .files import check_files
from .mini_imagenet import TO_SIGNED

__all__ = ["SplitTinyImageNet100", "check_options"]

_N_CLASSES = 100
_PIXELS = {32: TO_FLOAT, 84: TO_SIGNED}


def SplitTinyImageNet100(
    n_experiences: int = 20,
    *,
    image_size: Literal[32, 84] = 84,
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
    """Shares 100 classes of Tiny-ImageNet out among the experiences, by default 5 to each of 20.

    The classes are the first 100 of the 200 by their WordNet numbers, with 80 training and 20 test images each, resized
    from 64x64 pixels (bilinear). Images are float32.

    Args:
        n_experiences: number of experiences, which must share the classes evenly. Default: 20.
        image_size: width of the images in pixels: 84, the default, with values in [-1, 1] as in
            :func:`~clpack.benchmarks.SplitMiniImageNet`, or 32, with values in [0, 1] as in
            :func:`~clpack.benchmarks.PlainSplitCIFAR100`.
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
    arguments = locals()
    check_options(arguments)
    order = stream_order(arguments, n_classes=_N_CLASSES)
    root = check_files("TinyImageNet-subset", dataset_root)
    parts = _read(root / "tiny-imagenet-200-subset/tiny-imagenet-200-subset.zip", image_size)
    return class_split(
        parts,
        order,
        arguments,
        pixels=_PIXELS[image_size],
        data_description=f"100 classes of a part of Tiny-ImageNet, {image_size} x {image_size} pixels",
    )


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments that only this stream has, by name.

    Raises:
        ValueError: if one has an impossible value.
    """
    if arguments["image_size"] not in _PIXELS:
        raise ValueError(f"image_size must be 32 or 84, got {arguments['image_size']!r}")


def _read(path: Path, side: int) -> dict[str, TensorImages]:
    """Returns the images of each stream, ``(N, 3, side, side)`` of 8 bits, with their labels."""

    def as_pixels(image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))

    with zipfile.ZipFile(path) as archive:
        top = "tiny-imagenet-200"
        classes = sorted(archive.read(f"{top}/wnids.txt").decode().split())[:_N_CLASSES]
        label_of = {name: label for label, name in enumerate(classes)}
        found: dict[str, list[tuple[int, str]]] = {"train": [], "test": []}
        for name in archive.namelist():
            parts = name.split("/")
            if parts[1] == "train" and name.endswith(".JPEG") and parts[2] in label_of:
                found["train"].append((label_of[parts[2]], name))
        for line in archive.read(f"{top}/val/val_annotations.txt").decode().splitlines():
            name, class_name = line.split("\t")[:2]
            if class_name in label_of:
                found["test"].append((label_of[class_name], f"{top}/val/images/{name}"))
        streams = {}
        for stream, samples in found.items():
            samples.sort()
            images = decoded([io.BytesIO(archive.read(name)) for _, name in samples], as_pixels)
            streams[stream] = TensorImages(images, [label for label, _ in samples])
        return streams
