"""Five data sets of ten classes each, one after the other: CIFAR-10, MNIST, SVHN, notMNIST and Fashion-MNIST.

Order, labels and pixels are those of the experiments with TAG [1]. Where a member is not at hand, it can be left out or
replaced, and the benchmark says so in its ``data_description``.

References:
    [1] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, arXiv:2105.05155. Authors' code: github.com/pranshu28/TAG (MIT).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import ClassificationScenario
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, ConvertImageDtype

from clpack.data import BatchTransform, TensorImages

from ._class_order import check_seed
from ._members import MEMBERS, PAPER, check_members
from ._readers import read_cifar, read_cifar10_jpeg, read_grey, read_notmnist, read_svhn
from ._substitution import streams_benchmark, task_dataset
from .files import check_files, resolve_dataset_root

__all__ = ["FiveDatasets", "check_options"]

_SIDE = 32


def FiveDatasets(
    members: Sequence[str] = PAPER,
    *,
    return_task_id: bool = True,
    class_ids_from_zero_in_each_exp: bool = False,
    seed: int | None = None,
    train_transform: Callable[[Tensor], Tensor] | None = None,
    eval_transform: Callable[[Tensor], Tensor] | None = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> ClassificationScenario:
    """Shows one data set after the other, each with ten classes of its own.

    Images are float32 of shape ``(3, 32, 32)`` with values in [0, 1], not normalized. Grey images have three equal
    channels and are resized from 28 to 32 pixels (bilinear, as Pillow does it). Training and test images are those of
    the data sets. notMNIST-small has no test part; a tenth of it, 1872 images, is set aside, always the same ones. (So
    do the authors, but which ones they take depends on the file system.)

    Args:
        members: the data sets in the order of the tasks: ``"cifar10"``, ``"mnist"``, ``"svhn"``, ``"notmnist"``,
            ``"fashionmnist"``; also ``"cifar10_jpeg"``, the images of CIFAR-10 after JPEG compression. Default: the
            first five, as in the published results.
        return_task_id: True, the default, labels the experiences 0, 1, ...; False labels all of them 0.
        class_ids_from_zero_in_each_exp: True gives the labels 0..9 in each experience; False, the default, gives
            ``10 * i`` to ``10 * i + 9`` in experience ``i``.
        seed: without effect, since nothing is drawn; here because every stream takes it.
        train_transform: applied to each training image; None for nothing.
        eval_transform: applied to each test image; None for nothing.
        dataset_root: folder of the data sets; None means the environment variable ``CLPACK_DATA``, and if that is
            unset, ``~/.clpack``.

    Returns:
        The benchmark, of Avalanche's classic family; its attribute ``data_description`` says which data it has.

    Raises:
        TypeError, ValueError: if an argument has an impossible value, or a file another content than it should have.
        FileNotFoundError: if a file is missing; the message names all that are, and how to do without them.
    """
    check_options(locals())
    root = _check_files(members, dataset_root)
    streams: dict[str, list[Any]] = {"train": [], "test": []}
    notes = {}
    for task, member in enumerate(members):
        *parts, notes[member] = _read(member, root)
        for name, data in zip(streams, parts, strict=True):
            first_label = 0 if class_ids_from_zero_in_each_exp else 10 * task
            dataset = task_dataset(
                TensorImages(_of_side_32(data.images), torch.tensor(data.targets) + first_label),
                task_label=task if return_task_id else 0,
                pixels=Compose([_ThreeChannels(), ConvertImageDtype(torch.float32)]),
                train_transform=train_transform,
                eval_transform=eval_transform,
            )
            streams[name].append(dataset.train() if name == "train" else dataset)
    return streams_benchmark(streams, _description(members, notes))


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments of the stream, by name.

    Raises:
        TypeError, ValueError: if one has an impossible value.
    """
    check_members(arguments["members"])
    if arguments["seed"] is not None:
        check_seed(arguments["seed"])


def _check_files(members: Sequence[str], dataset_root: str | os.PathLike[str] | None) -> Path:
    """Returns the dataset root, or raises one error about all files that are missing or wrong."""
    problems: dict[str, FileNotFoundError | ValueError] = {}
    for member in members:
        try:
            check_files(MEMBERS[member].data_set, dataset_root)
        except (FileNotFoundError, ValueError) as error:
            problems[member] = error
    if problems:
        others = [member for member in members if member not in problems]
        remedies = [f"members={others} does without"] if others else []
        if "cifar10" in problems:
            remedies.append("'cifar10_jpeg' in the place of 'cifar10' takes compressed images")
        missing = any(isinstance(error, FileNotFoundError) for error in problems.values())
        raise (FileNotFoundError if missing else ValueError)(
            "\n".join(
                [
                    f"FiveDatasets cannot be opened: {', '.join(problems)} missing or wrong.",
                    *map(str, problems.values()),
                    *remedies,
                ]
            )
        )
    return resolve_dataset_root(dataset_root)


def _read(member: str, root: Path) -> tuple[TensorImages, TensorImages, str]:
    """Returns the training and test images of a member, and what there is to say about them."""
    match member:
        case "cifar10":
            return *read_cifar("CIFAR10", root), ""
        case "cifar10_jpeg":
            return *read_cifar10_jpeg(root), ""
        case "mnist":
            return *read_grey("MNIST", root), ""
        case "svhn":
            return *read_svhn(root), ""
        case "fashionmnist":
            return *read_grey("FashionMNIST", root), ""
        case _:  # notMNIST
            train, test, skipped = read_notmnist(root)
            return train, test, f" ({skipped} unreadable files skipped)"


def _of_side_32(images: Tensor) -> Tensor:
    """Returns 8-bit grey images ``(N, 1, H, W)`` with 32x32 pixels; those that have them already stay as they are."""
    if images.shape[-1] == _SIDE:
        return images
    size = (_SIDE, _SIDE)
    resized = [
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in images[:, 0].numpy()
    ]
    return torch.from_numpy(np.stack(resized)).unsqueeze(1)


def _description(members: Sequence[str], notes: Mapping[str, str]) -> str:
    text = ", ".join(MEMBERS[member].title + notes[member] for member in members)
    if tuple(members) == PAPER:
        return text
    absent = ", ".join(MEMBERS[member].title for member in PAPER if member not in members)
    return f"{text}; other than in the paper, {f'without {absent}' if absent else 'with more, or in another order'}"


class _ThreeChannels(BatchTransform):
    """Makes color images of grey ones."""

    def __call__(self, images: Tensor) -> Tensor:
        return images.expand(*images.shape[:-3], 3, -1, -1)
