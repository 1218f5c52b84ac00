"""Tiny-ImageNet [1]: all classes as they are, and 100 of them, smaller or larger, as a stream of many tasks.

Both can be had from a small part of the data: the first 80 training images of each class, and the first 20 validation
images for testing. Testing is on the validation images throughout, since the labels of the others are not published.

References:
    [1] Y. Le, X. Yang. Tiny ImageNet Visual Recognition Challenge. Stanford CS 231N, 2015.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from avalanche.benchmarks import ClassificationScenario
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clpack.data import TensorImages

from ._class_order import FixedOrder, stream_order
from ._class_split import TO_FLOAT, class_split, to_pixels
from ._readers import decoded
from ._substitution import check_flags
from .files import check_files
from .mini_imagenet import TO_SIGNED

__all__ = ["SplitTinyImageNet", "SplitTinyImageNet100", "check_options"]

_N_CLASSES = 200
_N_CHOSEN = 100
_SIDE = 64
_PIXELS = {32: TO_FLOAT, 84: TO_SIGNED}
_PART = "TinyImageNet-subset"
_ARCHIVES = {"TinyImageNet": "tiny-imagenet-200.zip", _PART: "tiny-imagenet-200-subset/tiny-imagenet-200-subset.zip"}


def SplitTinyImageNet(
    n_experiences: int = 10,
    *,
    subset: bool = False,
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
    """Shares the 200 classes of Tiny-ImageNet out among the experiences, by default 20 to each of 10.

    Images are float32 of shape ``(3, 64, 64)``. Classes are numbered by their WordNet numbers. Each has 500
    training images and 50 for testing, which are the validation images of the data set.

    Args:
        n_experiences: number of experiences, which must share the classes evenly. Default: 10.
        subset: True opens the part with 80 training and 20 test images of each class. Default: False.
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
    check_options({**arguments, "stream": "SplitTinyImageNet"})
    order = stream_order(arguments, n_classes=_N_CLASSES)
    parts = _read(_PART if subset else "TinyImageNet", dataset_root, _SIDE, _N_CLASSES)
    return class_split(
        parts,
        order,
        arguments,
        pixels=to_pixels("tiny_imagenet" if normalize else None),
        data_description="a part of Tiny-ImageNet, 80 training images of each class" if subset else "Tiny-ImageNet",
    )


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
    check_options({**arguments, "stream": "SplitTinyImageNet100"})
    order = stream_order(arguments, n_classes=_N_CHOSEN)
    return class_split(
        _read(_PART, dataset_root, image_size, _N_CHOSEN),
        order,
        arguments,
        pixels=_PIXELS[image_size],
        data_description=f"100 classes of a part of Tiny-ImageNet, {image_size} x {image_size} pixels",
    )


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments that only these streams have, by name.

    Raises:
        TypeError, ValueError: if one has an impossible value.
    """
    if arguments["stream"] == "SplitTinyImageNet":
        check_flags(arguments, "subset", "normalize")
    elif arguments["image_size"] not in _PIXELS:
        raise ValueError(f"image_size must be 32 or 84, got {arguments['image_size']!r}")


def _read(
    data_set: str, dataset_root: str | os.PathLike[str] | None, side: int, n_classes: int
) -> dict[str, TensorImages]:
    """Returns the images of the first classes for each stream, ``(N, 3, side, side)`` of 8 bits, with their labels."""

    def as_pixels(image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))

    with zipfile.ZipFile(check_files(data_set, dataset_root) / _ARCHIVES[data_set]) as archive:
        top = "tiny-imagenet-200"
        classes = sorted(archive.read(f"{top}/wnids.txt").decode().split())[:n_classes]
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
