"""The images of an experience as tensors, and the classes of a stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ._gather import GatheredData, NotGatherableError
from .data import dataset_field

__all__ = ["Group", "groups_of", "has_task_labels", "image_shape", "read_images", "stream_groups", "task_labels"]

Group = tuple[int, int]
"""A task label and a class of that task."""

_TASK_LABELS = "targets_task_labels"
_BATCH = 256  # samples read at a time, where they cannot be gathered


def image_shape(dataset: Any) -> tuple[int, int, int]:
    """Returns ``(C, H, W)`` of the samples of an ``AvalancheDataset``, as evaluation sees them.

    Raises:
        TypeError: if they are not float32 images.
    """
    with torch.random.fork_rng(devices=[]):  # looking at a sample must not shift the random stream of the run
        sample = dataset.eval()[0][0]
    if not isinstance(sample, Tensor) or sample.dtype != torch.float32 or sample.dim() != 3:
        found = (
            f"{sample.dtype} of shape {tuple(sample.shape)}" if isinstance(sample, Tensor) else type(sample).__name__
        )
        raise TypeError(
            f"samples must be float32 images of shape (C, H, W) to be condensed, got {found}; let eval_transform make "
            "such tensors, normalized"
        )
    channels, height, width = sample.shape
    return channels, height, width


def read_images(dataset: Any) -> tuple[Tensor, Tensor]:
    """Reads all samples with the evaluation transform, in one go where the data allow it.

    Returns:
        The images, float32 of shape ``(N, C, H, W)``, and their classes, int64 of shape ``(N,)``.
    """
    data = dataset.eval()
    try:
        images, targets, *_ = GatheredData([data]).__getitems__(list(range(len(data))))
    except NotGatherableError:
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed
            loader = DataLoader(data, batch_size=_BATCH, collate_fn=data.collate_fn)
            images, targets = map(torch.cat, zip(*(batch[:2] for batch in loader), strict=True))
    return images, targets


def has_task_labels(dataset: Any) -> bool:
    """Whether the samples of an ``AvalancheDataset`` have task labels."""
    return _TASK_LABELS in dataset._data_attributes


def task_labels(dataset: Any) -> Tensor:
    """Returns the task label of each sample, int64 of shape ``(N,)``; 0 where there are none."""
    if has_task_labels(dataset):
        return dataset_field(dataset, _TASK_LABELS)
    return torch.zeros(len(dataset), dtype=torch.int64)


def groups_of(dataset: Any) -> dict[Group, int]:
    """Returns the classes of a dataset, those of each task in ascending order, and how many samples each has."""
    pairs = torch.stack([task_labels(dataset), dataset_field(dataset, "targets")], dim=1)
    groups, counts = pairs.unique(dim=0, return_counts=True)
    return {(task, label): count for (task, label), count in zip(groups.tolist(), counts.tolist(), strict=True)}


def stream_groups(experience: Any) -> set[Group]:
    """Returns the classes of the stream of an experience; those of the experience alone, if the stream has no end."""
    whole = getattr(experience, "origin_experience", experience)  # of the parts of an online stream
    stream = getattr(whole, "origin_stream", ())
    others = [groups_of(each.dataset) for each in stream] if hasattr(stream, "__len__") else []
    return set().union(groups_of(experience.dataset), *others)
