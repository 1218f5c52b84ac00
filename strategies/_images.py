"""The images of an experience as tensors, and the classes of a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._gather import GatheredData, NotGatherableError
from .checkpoint import host_random_state, set_host_random_state
from .data import SAMPLE_ID, dataset_field, synthetic_dataset

__all__ = [
    "Group",
    "groups_of",
    "has_task_labels",
    "image_shape",
    "one_image_dataset",
    "random_state_kept",
    "read_images",
    "stream_groups",
    "task_labels",
]

Group = tuple[int, int]
"""A task label and a class of that task."""

_TASK_LABELS = "targets_task_labels"


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Leaves Python's, NumPy's and torch's global generators as they are, whatever transforms and loaders draw."""
    state = host_random_state()
    try:
        yield
    finally:
        set_host_random_state(state)


def image_shape(dataset: Any) -> tuple[int, int, int]:
    """Returns ``(C, H, W)`` of the samples of an ``AvalancheDataset``, as evaluation sees them.

    Raises:
        TypeError: if they are not float32 images.
    """
    with random_state_kept():
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

    Raises:
        ValueError: if they are of several sizes.
    """
    data = dataset.eval()
    with random_state_kept():
        try:
            images, targets, *_ = GatheredData([data]).__getitems__(list(range(len(data))))
        except NotGatherableError:
            samples = [data[index] for index in range(len(data))]
            shapes = {tuple(sample[0].shape) for sample in samples}
            if len(shapes) > 1:
                raise ValueError(
                    f"images must be of one size to be condensed, got {', '.join(map(str, sorted(shapes)))}; let "
                    "eval_transform resize them"
                ) from None
            images = torch.stack([sample[0] for sample in samples])
            targets = torch.tensor([int(sample[1]) for sample in samples])
    return images, targets


def one_image_dataset(dataset: Any) -> Any:
    """Returns a dataset of one black image with the fields of an ``AvalancheDataset`` that are in its mini-batches.

    Raises:
        ValueError: if there is such a field besides the class, the task label and the sample id.
    """
    known = ("targets", _TASK_LABELS, SAMPLE_ID)
    fields = dataset._data_attributes
    if unknown := [name for name, field in fields.items() if field.use_in_getitem and name not in known]:
        raise ValueError(
            f"mini-batches of the stream have the fields {unknown}, of which condensed images have no values; make "
            "these data attributes with use_in_getitem=False"
        )
    shown = dataset._shallow_clone_dataset()
    shown._data_attributes = type(fields)((name, field) for name, field in fields.items() if name in known)
    task = int(task_labels(dataset)[0]) if has_task_labels(dataset) else None
    with random_state_kept():
        return synthetic_dataset(shown, torch.zeros(1, *image_shape(dataset)), [0], task)


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


def stream_groups(experience: Any) -> dict[Group, int]:
    """Returns the classes of the stream of an experience, and how many samples each has in an experience at least.

    Of a stream that has no end, they are those of the experience.
    """
    whole = getattr(experience, "origin_experience", experience)  # of the parts of an online stream
    stream = getattr(whole, "origin_stream", ())
    fewest: dict[Group, int] = {}
    for each in stream if hasattr(stream, "__len__") else [experience]:
        for group, size in groups_of(each.dataset).items():
            fewest[group] = min(size, fewest.get(group, size))
    return fewest
