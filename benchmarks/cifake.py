"""Split CIFAKE: the ten classes of CIFAR-10, with natural and with synthetic images of each.

The natural images are those of CIFAR-10 after JPEG compression, "CIFAR-10 (JPEG)"; the synthetic ones are a part of
CIFAKE-FAKE, made by Stable Diffusion 1.4 (J. Bird and A. Lotfi, IEEE Access 2024, arXiv:2303.14126). Both went
through the same compression, so this is a small counterpart of the GenImage streams. Accuracies are close to those on
CIFAR-10, but not the same.

The images of a stream are decoded when it is opened, which takes about 0.1 ms for each.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import ClassificationScenario
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import ConvertImageDtype

from clpack.data import TensorImages
from clpack.randomness import generator_for

from ._class_order import FixedOrder, class_order
from ._genimage_classes import Form
from ._genimage_raw import FORMS
from ._substitution import (
    SyntheticTasks,
    check_flags,
    check_val_fraction,
    drawn_seed,
    hold_out,
    in_evaluation_order,
    streams_benchmark,
    task_dataset,
    task_forms,
)
from .files import check_files

__all__ = ["SplitCIFAKE", "check_options"]

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SYNTHETIC_TEST_FRACTION = 0.2
_ARCHIVES: dict[Form, str] = {"nature": "cifar10-jpeg/cifar10-jpeg.zip", "ai": "cifake-fake/cifake-fake.zip"}
_MEMBER = re.compile(r"(train|test)/(?:FAKE/)?([a-z]+)/(\d+)(?: \(\d+\))?\.jpg")


def SplitCIFAKE(
    n_experiences: int = 5,
    *,
    synthetic_tasks: SyntheticTasks = 0,
    return_task_id: bool = True,
    class_ids_from_zero_in_each_exp: bool = True,
    seed: int | None = None,
    fixed_class_order: FixedOrder | None = None,
    shuffle: bool = True,
    images_per_class: int | None = None,
    val_fraction: float = 0.1,
    train_transform: Callable[[Tensor], Tensor] | None = None,
    eval_transform: Callable[[Tensor], Tensor] | None = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> ClassificationScenario:
    """Shares ten classes out among the experiences, each of which trains on natural or on synthetic images.

    Streams: ``train``; ``valid``, held out from the training images; ``test`` and ``test_natural``, the 1000 natural
    test images of each class (the same in both); ``test_synthetic``. The synthetic data has no test part, so the last
    fifth of the images of each class, 400 of 2000, is set aside for testing. Images are 32x32 with values in [0, 1],
    not normalized; validation and test images are in a fixed random order.

    Args:
        n_experiences: number of tasks: 1, 2, 5 or 10, or a divisor of the length of ``fixed_class_order``.
        synthetic_tasks: which tasks train on synthetic images: the number of tasks from the first one on, the indices
            of the tasks, or ``"ai"`` or ``"nature"`` for each task. Default: 0, none.
        return_task_id: True labels the experiences 0, 1, ...; False labels all of them 0.
        class_ids_from_zero_in_each_exp: True numbers the classes of each task from 0, in the order of the task's
            classes; False keeps the labels of CIFAR-10.
        seed: seed of the class order and of the choice of validation images; None draws both from the present state of
            torch's global generator, which stays as it is.
        fixed_class_order: the classes in the order wanted, all or a part of them; or ``"numpy"``, the permutation
            of NumPy's legacy generator for ``seed``. ``shuffle`` then plays no part.
        shuffle: False keeps the classes in ascending order.
        images_per_class: the number of training images of each class, before the validation images are held out. None
            takes all: 5000 natural or 1600 synthetic ones, so give a number where both are compared.
        val_fraction: the part of the training images of each class that is held out for validation, in [0, 1);
            0 leaves out the stream ``valid``.
        train_transform: applied to each training image; None for nothing.
        eval_transform: applied to each validation and test image; None for nothing.
        dataset_root: folder of the data; None takes ``CLPACK_DATA`` or ``~/.clpack``.

    Returns:
        The benchmark, of Avalanche's classic family; its attribute ``data_description`` says which data it has.

    Raises:
        TypeError, ValueError: if an argument has an impossible value, there are fewer images than
            ``images_per_class``, or a file has another content than it should have.
        FileNotFoundError: if a file is missing.
    """
    order = class_order(len(_CLASSES), n_experiences, seed=seed, shuffle=shuffle, fixed_class_order=fixed_class_order)
    check_options(locals())
    seed = drawn_seed(seed)
    root = check_files("CIFAKE", dataset_root)
    per_task = len(order) // n_experiences
    streams: dict[str, list[Any]] = {name: [] for name in ("train", "test", "test_natural", "test_synthetic", "valid")}
    with contextlib.ExitStack() as opened:
        # open as long as they are read from: their directories take time
        zipped = {form: opened.enter_context(zipfile.ZipFile(root / path)) for form, path in _ARCHIVES.items()}
        archives = {form: _Archive(archive, form) for form, archive in zipped.items()}
        for task, form in enumerate(task_forms(synthetic_tasks, n_experiences)):
            classes = order[task * per_task : (task + 1) * per_task]
            labels = list(range(per_task)) if class_ids_from_zero_in_each_exp else classes
            as_dataset = functools.partial(
                task_dataset,
                task_label=task if return_task_id else 0,
                pixels=ConvertImageDtype(torch.float32),
                train_transform=train_transform,
                eval_transform=eval_transform,
            )
            images = archives[form].read("train", classes, labels, images_per_class)
            dataset = as_dataset(images)
            if val_fraction:
                generator = generator_for(seed, "validation images", task)
                kept, held_out = hold_out(torch.tensor(images.targets), val_fraction, generator)
                streams["valid"].append(in_evaluation_order(dataset.subset(held_out.tolist())))
                dataset = dataset.subset(kept.tolist())
            streams["train"].append(dataset.train())
            natural, synthetic = (archives[form].read("test", classes, labels) for form in FORMS)
            streams["test"].append(in_evaluation_order(as_dataset(natural)))
            streams["test_synthetic"].append(in_evaluation_order(as_dataset(synthetic)))
    streams["test_natural"] = streams["test"]
    return streams_benchmark(
        {name: datasets for name, datasets in streams.items() if datasets},
        "CIFAR-10 (JPEG) as natural images, a part of CIFAKE-FAKE as synthetic ones",
    )


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments of the stream that the order of classes does not depend on, by name.

    Raises:
        TypeError, ValueError: if one has an impossible value.
    """
    task_forms(arguments["synthetic_tasks"], arguments["n_experiences"])
    check_val_fraction(arguments["val_fraction"])
    check_flags(arguments, "return_task_id", "class_ids_from_zero_in_each_exp")
    number = arguments["images_per_class"]
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        raise ValueError(f"images_per_class must be a positive integer or None, got {number!r}")


class _Archive:
    """The zipped images of one form."""

    def __init__(self, archive: zipfile.ZipFile, form: Form) -> None:
        self._archive = archive
        members: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for name in archive.namelist():
            match = _MEMBER.fullmatch(name)
            if match is not None:
                members.setdefault((match[1], match[2]), []).append((int(match[3]), name))
        self._names = {key: [name for _, name in sorted(numbered)] for key, numbered in members.items()}
        if form == "ai":
            for class_name in _CLASSES:
                names = self._names["train", class_name]
                n_train = len(names) - round(_SYNTHETIC_TEST_FRACTION * len(names))
                self._names["train", class_name], self._names["test", class_name] = names[:n_train], names[n_train:]

    def read(
        self, split: str, classes: Sequence[int], labels: Sequence[int], images_per_class: int | None = None
    ) -> TensorImages:
        """Decodes the first images of some classes and gives them the labels at the same place."""
        images: list[NDArray[np.uint8]] = []
        targets: list[int] = []
        for class_index, label in zip(classes, labels, strict=True):
            names = self._names[split, _CLASSES[class_index]][:images_per_class]
            if len(names) < (images_per_class or 0):
                raise ValueError(
                    f"images_per_class must be at most {len(names)} for the images in {self._archive.filename}, "
                    f"got {images_per_class}"
                )
            for name in names:
                with Image.open(io.BytesIO(self._archive.read(name))) as image:
                    images.append(np.asarray(image.convert("RGB")))
            targets += [label] * len(names)
        return TensorImages(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), targets)
