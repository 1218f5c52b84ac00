"""Split miniImageNet: 100 classes of ImageNet with 600 images of 84x84 pixels each.

Classes, split and pixels are those of the experiments with TAG [2]: the three splits of few-shot learning are joined in
the order train, test, val, and of each class the first 480 images are for training and the others for testing.

References:
    [1] O. Vinyals et al. Matching Networks for One Shot Learning. NeurIPS 2016, arXiv:1606.04080.
    [2] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, arXiv:2105.05155. Authors' code: github.com/pranshu28/TAG (MIT).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from avalanche.benchmarks import ClassificationScenario
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize

from clpack._unpickling import NumbersUnpickler
from clpack.data import TensorImages

from ._class_order import FixedOrder, stream_order
from ._class_split import TO_FLOAT, class_split
from ._readers import decoded, stacked
from .files import check_files
from .registry import describe

__all__ = ["TO_SIGNED", "SplitMiniImageNet", "check_options"]

_SPLITS = {"train": 64, "test": 20, "val": 16}  # and their numbers of classes
_PER_CLASS = 600  # images, a fifth of them for testing
_SIDE = 84

TO_SIGNED = Compose([TO_FLOAT, Normalize([0.5] * 3, [0.5] * 3)])
"""Makes float32 images in [-1, 1] of 8-bit ones."""


def SplitMiniImageNet(
    n_experiences: int = 20,
    *,
    source: Literal["cache", "images"] = "cache",
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
    """Shares the 100 classes out among the experiences, by default 5 to each of 20.

    Images are float32 of shape ``(3, 84, 84)`` with values in [-1, 1]. There are 480 training and 120 test images of
    each class; in memory they take 1.3 GB.

    Args:
        n_experiences: number of experiences, which must share the classes evenly. Default: 20.
        source: ``"cache"``, the default, reads ``miniImageNet/mini-imagenet-cache-train.pkl``, ``...-test.pkl`` and
            ``...-val.pkl``, with a reader that runs nothing and refuses all but arrays, and keeps the order of classes
            and images in the files; ``"images"`` reads the image files
            ``miniImageNet/{train,test,val}/<class>/<image>``, classes and images sorted by name, and resizes those
            that are not 84x84 (bilinear).
        return_task_id: True, the default, labels the experiences 0, 1, ...; False labels all of them 0.
        seed: seed of the class order; None takes the order that the present state of torch's global generator gives.
            Only for ``shuffle=True`` and ``fixed_class_order="numpy"``.
        fixed_class_order: the classes in the order wanted, all or a part of them, or ``"numpy"``: the permutation of
            NumPy's legacy generator for ``seed``.
        shuffle: False, the default, keeps the classes in the order above.
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
    order = stream_order(arguments, n_classes=sum(_SPLITS.values()))
    (data_set,) = describe("SplitMiniImageNet", source=source).data_sets
    folder = check_files(data_set, dataset_root) / "miniImageNet"
    parts = _divided(_cached_classes(folder) if source == "cache" else _image_classes(folder))
    return class_split(parts, order, arguments, pixels=TO_SIGNED, data_description="miniImageNet")


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments that only this stream has, by name.

    Raises:
        ValueError: if one has an impossible value.
    """
    if arguments["source"] not in ("cache", "images"):
        raise ValueError(f"source must be 'cache' or 'images', got {arguments['source']!r}")


def _divided(classes: Iterator[Tensor]) -> dict[str, TensorImages]:
    """Returns the training and test images, given those of each class, ``(600, 3, 84, 84)``."""
    n_test = _PER_CLASS // 5
    n_classes = sum(_SPLITS.values())
    train = torch.empty(n_classes, _PER_CLASS - n_test, 3, _SIDE, _SIDE, dtype=torch.uint8)
    test = torch.empty(n_classes, n_test, 3, _SIDE, _SIDE, dtype=torch.uint8)
    for label, images in enumerate(classes):
        train[label], test[label] = images[:-n_test], images[-n_test:]
    return {
        name: TensorImages(images.flatten(0, 1), torch.arange(n_classes).repeat_interleave(images.shape[1]))
        for name, images in (("train", train), ("test", test))
    }


def _cached_classes(folder: Path) -> Iterator[Tensor]:
    for split, n_classes in _SPLITS.items():
        path = folder / f"mini-imagenet-cache-{split}.pkl"
        images, rows = _read_cache(path)
        if len(rows) != n_classes or any(len(each) != _PER_CLASS for each in rows):
            raise ValueError(
                f"{path} must hold {n_classes} classes of {_PER_CLASS} images, got {len(rows)} of "
                f"{', '.join(map(str, sorted({len(each) for each in rows})))}"
            )
        for each in rows:
            yield stacked(images[each])


def _read_cache(path: Path) -> tuple[NDArray[np.uint8], list[NDArray[np.int64]]]:
    """Returns the images of a cached split, ``(N, 84, 84, 3)``, and the rows of each class, in the order of the file.

    The files are pickles of Python 2: ``{"image_data": uint8 array, "class_dict": {class: rows}}``. They are read with
    a reader that makes arrays of numbers and nothing else.
    """
    try:
        with path.open("rb") as file:
            read = NumbersUnpickler(file, encoding="bytes").load()
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in read.items()}
        images = content["image_data"].values
        rows = [np.asarray(getattr(each, "values", each), dtype=np.int64) for each in content["class_dict"].values()]
        if images.dtype != np.uint8 or images.shape[1:] != (_SIDE, _SIDE, 3):
            raise TypeError(f"its images are {images.dtype} of shape {images.shape}")
        if any(each.min() < 0 or each.max() >= len(images) for each in rows):
            raise IndexError(f"its classes name other rows than 0..{len(images) - 1}")
    except Exception as error:  # whatever a damaged or a foreign pickle runs into
        raise ValueError(
            f"{path} must be a cached split of miniImageNet, a pickle of image_data, uint8 of shape "
            f"(N, {_SIDE}, {_SIDE}, 3), and class_dict: {error!r}"
        ) from error
    return images, rows


def _image_classes(folder: Path) -> Iterator[Tensor]:
    for split, n_classes in _SPLITS.items():
        classes = sorted(each for each in (folder / split).iterdir() if each.is_dir())
        if len(classes) != n_classes:
            raise ValueError(f"{folder / split} must have {n_classes} folders, one for each class, got {len(classes)}")
        for each in classes:
            files = sorted(each.iterdir())
            if len(files) != _PER_CLASS:
                raise ValueError(f"{each} must hold the {_PER_CLASS} images of a class, got {len(files)} files")
            yield decoded(files, _to_side_84)


def _to_side_84(image: Image.Image) -> NDArray[np.uint8]:
    image = image.convert("RGB")
    if image.size != (_SIDE, _SIDE):
        image = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image)
