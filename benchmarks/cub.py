"""Split CUB: the 200 kinds of birds of Caltech-UCSD Birds-200-2011 [1], in images of 224x224 pixels.

The stream of the experiments with TAG [2], which start from a ResNet-18 trained on ImageNet.

References:
    [1] C. Wah et al. The Caltech-UCSD Birds-200-2011 Dataset. California Institute of Technology, CNS-TR-2011-001.
    [2] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, arXiv:2105.05155. Authors' code: github.com/pranshu28/TAG (MIT).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from avalanche.benchmarks import ClassificationScenario
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import Compose, Normalize

from clpack.data import TensorImages

from ._class_order import FixedOrder, stream_order
from ._class_split import TO_FLOAT, class_split
from ._readers import decoded
from .files import check_files

__all__ = ["SplitCUB", "check_options"]

_N_CLASSES = 200
_SIDE = 224
_MEANS = (103.94, 116.78, 123.68)  # of blue, green and red in ImageNet; the authors take them for red, green and blue


def SplitCUB(
    n_experiences: int = 20,
    *,
    preprocessing: Literal["authors", "standard"] = "authors",
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
    """Shares the 200 classes out among the experiences, by default 10 to each of 20.

    Images are float32 of shape ``(3, 224, 224)``: 5994 for training and 5794 for testing, as the data set divides them.
    They are decoded when the stream is opened, and take 1.8 GB in memory.

    Args:
        n_experiences: number of experiences, which must share the classes evenly. Default: 20.
        preprocessing: ``"authors"``, the default, resizes the whole image, whatever its shape, without smoothing
            (bilinear), subtracts 103.94, 116.78, 123.68 from red, green and blue in 0..255, which is meant for blue,
            green and red, and maps the result ``x`` to ``2 (x - 0.5)``: the values lie in [-248.4, 301.1]. (Resized
            pixels are rounded to 8 bits here.) ``"standard"`` is what networks trained on ImageNet expect: resized to a
            shorter side of 256 (bilinear, smoothed), the central 224x224, values in [0, 1] normalized with ImageNet's
            means 0.485, 0.456, 0.406 and standard deviations 0.229, 0.224, 0.225.
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
        dataset_root: folder that holds ``CUB_200_2011``; None means the environment variable ``CLPACK_DATA``, and if
            that is unset, ``~/.clpack``.

    Returns:
        The benchmark, of Avalanche's classic family; its attribute ``data_description`` says which data it has.

    Raises:
        TypeError, ValueError: if an argument has an impossible value, or a file another content than it should have.
        FileNotFoundError: if a file is missing; the message says where to get it.
    """
    arguments = locals()
    check_options(arguments)
    order = stream_order(arguments, n_classes=_N_CLASSES)
    folder = check_files("CUB200", dataset_root) / "CUB_200_2011"
    lists = read_lists(folder)
    missing = [path for paths, _ in lists.values() for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the images of CUB-200-2011 are missing, the first of them {missing[0]}; unpack "
            f"CUB_200_2011.tgz again into {folder.parent}"
        )
    as_pixels, pixels = _PREPROCESSING[preprocessing]
    parts = {name: TensorImages(decoded(paths, as_pixels), labels) for name, (paths, labels) in lists.items()}
    description = f"CUB-200-2011, preprocessing {preprocessing!r}"
    return class_split(parts, order, arguments, pixels=pixels, data_description=description)


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments that only this stream has, by name.

    Raises:
        ValueError: if one has an impossible value.
    """
    if arguments["preprocessing"] not in _PREPROCESSING:
        raise ValueError(f"preprocessing must be 'authors' or 'standard', got {arguments['preprocessing']!r}")


def read_lists(folder: Path) -> dict[str, tuple[list[Path], list[int]]]:
    """Returns the image files and the labels, from 0 on, of the streams ``train`` and ``test``."""
    names, labels, is_train = (
        [line.split()[1] for line in (folder / f"{name}.txt").read_text().splitlines()]
        for name in ("images", "image_class_labels", "train_test_split")
    )
    rows = {
        stream: [row for row, flag in enumerate(is_train) if flag == wanted]
        for stream, wanted in (("train", "1"), ("test", "0"))
    }
    return {
        stream: ([folder / "images" / names[row] for row in chosen], [int(labels[row]) - 1 for row in chosen])
        for stream, chosen in rows.items()
    }


def _as_the_authors(image: Image.Image) -> NDArray[np.uint8]:
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()
    resized = interpolate(pixels.unsqueeze(0), (_SIDE, _SIDE), mode="bilinear", align_corners=False)[0]
    return resized.round().to(torch.uint8).permute(1, 2, 0).numpy()


def _central_part(image: Image.Image) -> NDArray[np.uint8]:
    width, height = (256 * side // min(image.size) for side in image.size)
    left, top = round((width - _SIDE) / 2), round((height - _SIDE) / 2)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + _SIDE, top + _SIDE)))


_PREPROCESSING: dict[str, tuple[Callable[[Image.Image], NDArray[np.uint8]], Callable[[Tensor], Tensor]]] = {
    "authors": (
        _as_the_authors,
        Compose([TO_FLOAT, Normalize([(mean + 0.5) / 255 for mean in _MEANS], [1 / 510] * 3)]),
    ),
    "standard": (_central_part, Compose([TO_FLOAT, Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])),
}
