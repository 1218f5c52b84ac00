"""Benchmarks that share the classes of a data set in memory out among the experiences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from avalanche.benchmarks import ClassificationScenario
from torch import Tensor
from torchvision.transforms import Compose, ConvertImageDtype, Normalize

from clpack.data import TensorImages
from clpack.presets import NORMALIZATION

from ._substitution import streams_benchmark, task_dataset

__all__ = ["TO_FLOAT", "class_split", "to_pixels"]

TO_FLOAT = ConvertImageDtype(torch.float32)
"""Makes float32 images in [0, 1] of 8-bit ones."""


def to_pixels(normalized: str | None) -> Callable[[Tensor], Tensor]:
    """Returns what makes float32 images of 8-bit ones: in [0, 1], or normalized.

    Args:
        normalized: a data set in :data:`clpack.presets.NORMALIZATION`, by whose mean and standard deviation; None for
            neither.
    """
    steps = [TO_FLOAT] if normalized is None else [TO_FLOAT, Normalize(*NORMALIZATION[normalized])]
    pixels: Callable[[Tensor], Tensor] = Compose(steps)
    return pixels


def class_split(
    parts: Mapping[str, TensorImages],
    order: Sequence[int],
    arguments: Mapping[str, Any],
    *,
    pixels: Callable[[Tensor], Tensor] = TO_FLOAT,
    data_description: str,
) -> ClassificationScenario:
    """Shares classes out among experiences, in their order and as evenly as they divide, the larger shares first.

    An experience has the samples of one class after the other, each in the order of the data.

    Args:
        parts: the images of each stream, such as ``train`` and ``test``, with 8-bit pixels and the labels from 0 on.
        order: the classes in the order of the stream, all or a part of them.
        arguments: those of the stream, by name: ``n_experiences``, ``return_task_id``,
            ``class_ids_from_zero_in_each_exp``, ``class_ids_from_zero_from_first_exp``, ``train_transform`` and
            ``eval_transform``.
        pixels: makes of stored images those that every transform sees; by default float32 in [0, 1].
        data_description: which data these are.
    """
    classes = torch.tensor(order)
    shares = classes.tensor_split(arguments["n_experiences"])
    n_classes = 1 + max(max(data.targets) for data in parts.values())
    shown = torch.arange(n_classes)
    if arguments["class_ids_from_zero_from_first_exp"]:
        shown[classes] = torch.arange(len(classes))
    elif arguments["class_ids_from_zero_in_each_exp"]:
        shown[classes] = torch.cat([torch.arange(len(share)) for share in shares])
    streams: dict[str, list[Any]] = {}
    for name, data in parts.items():
        targets = torch.tensor(data.targets)
        by_class = targets.argsort(stable=True).split(targets.bincount(minlength=n_classes).tolist())
        renumbered = TensorImages(data.images, shown[targets])
        streams[name] = []
        for task, share in enumerate(shares):
            dataset = task_dataset(
                renumbered,
                task_label=task if arguments["return_task_id"] else 0,
                pixels=pixels,
                train_transform=arguments["train_transform"],
                eval_transform=arguments["eval_transform"],
            ).subset([row for label in share.tolist() for row in by_class[label].tolist()])
            streams[name].append(dataset.train() if name == "train" else dataset)
    return streams_benchmark(streams, data_description)
