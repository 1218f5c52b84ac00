"""What the streams with natural and synthetic images share: which tasks are synthetic, hold-outs, and the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from avalanche.benchmarks import ClassificationScenario
from avalanche.benchmarks.utils import DefaultTransformGroups, _make_taskaware_classification_dataset
from avalanche.benchmarks.utils.data import make_avalanche_dataset
from torch import Tensor

from clpack.randomness import generator_for

from ._class_order import generator_for_seed
from ._genimage_classes import Form

__all__ = [
    "SyntheticTasks",
    "check_flags",
    "check_val_fraction",
    "drawn_seed",
    "hold_out",
    "in_evaluation_order",
    "streams_benchmark",
    "task_dataset",
    "task_forms",
]

SyntheticTasks = int | Collection[int] | Sequence[str]
"""Which tasks train on synthetic images: the first so many, those named by index, or ``"ai"``/``"nature"`` for each."""


def task_forms(synthetic_tasks: SyntheticTasks, n_experiences: int) -> list[Form]:
    """Returns the form of the training images of each task.

    Args:
        synthetic_tasks: the number of tasks, from the first one on, that are synthetic; or the indices of those tasks;
            or one of ``"ai"`` and ``"nature"`` for each task.
        n_experiences: the number of tasks.

    Raises:
        TypeError: if ``synthetic_tasks`` is none of these.
        ValueError: if it names a task or a form that does not exist, a task twice, or too few or too many forms.
    """
    given = f"got {synthetic_tasks!r} for {n_experiences} tasks"
    if isinstance(synthetic_tasks, Integral) and not isinstance(synthetic_tasks, bool):
        if not 0 <= int(synthetic_tasks) <= n_experiences:
            raise ValueError(f"synthetic_tasks must be a number of tasks from 0 to {n_experiences}, {given}")
        synthetic: Collection[Any] = range(int(synthetic_tasks))
    elif isinstance(synthetic_tasks, Collection) and not isinstance(synthetic_tasks, str | bytes | Mapping):
        synthetic = synthetic_tasks
    else:
        raise TypeError(f"synthetic_tasks must be a number of tasks, their indices or a list of ai and nature, {given}")
    if any(isinstance(form, str) for form in synthetic):
        if len(synthetic) != n_experiences or not set(synthetic) <= {"ai", "nature"}:
            raise ValueError(f"synthetic_tasks must name 'ai' or 'nature' for each task, {given}")
        return list(synthetic)
    for task in synthetic:
        if not isinstance(task, Integral) or isinstance(task, bool):
            raise TypeError(f"synthetic_tasks must hold integer indices of tasks, {given}")
    if len(set(synthetic)) < len(synthetic) or not set(synthetic) <= set(range(n_experiences)):
        raise ValueError(f"synthetic_tasks must name tasks 0..{n_experiences - 1}, each at most once, {given}")
    return ["ai" if task in synthetic else "nature" for task in range(n_experiences)]


def check_flags(arguments: Mapping[str, Any], *names: str) -> None:
    """Raises a :class:`TypeError` unless those of the named arguments that are there are True or False."""
    for name in names:
        if name in arguments and not isinstance(arguments[name], bool):
            raise TypeError(f"{name} must be True or False, got {arguments[name]!r}")


def check_val_fraction(val_fraction: float) -> None:
    """Raises unless ``val_fraction`` is a number in [0, 1)."""
    if isinstance(val_fraction, bool) or not isinstance(val_fraction, Real):
        raise TypeError(f"val_fraction must be a number, got {val_fraction!r} of type {type(val_fraction).__name__}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}")


def drawn_seed(seed: int | None) -> int:
    """Returns ``seed``, or for None one drawn from the present state of torch's global generator, which stays."""
    return int(torch.randint(2**63 - 1, (), generator=generator_for_seed(None))) if seed is None else int(seed)


def hold_out(targets: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Divides samples into those that stay and those held out, ``round(fraction * n)`` of the ``n`` of each class.

    Args:
        targets: int64 tensor of shape ``(N,)``, the labels from 0 on.
        fraction: in [0, 1).
        generator: what the choice is drawn from.

    Returns:
        Two int64 tensors, the rows that stay and the rows held out, each ascending.

    Raises:
        ValueError: if there are so few samples that none is held out.
    """
    shuffled = torch.randperm(len(targets), generator=generator)
    by_class = shuffled[targets[shuffled].argsort(stable=True)]
    counts = targets.bincount()
    first_of_class = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(len(targets)) - first_of_class
    held = rank < (counts.double() * fraction).round().repeat_interleave(counts)
    if not held.any():
        raise ValueError(
            f"val_fraction {fraction} holds out no image of classes of at most {counts.max().item()}; "
            "raise it, or pass val_fraction=0 to do without validation images"
        )
    return by_class[~held].sort().values, by_class[held].sort().values


def task_dataset(
    data: Any,
    *,
    task_label: int,
    pixels: Callable[[Tensor], Tensor],
    train_transform: Callable[[Tensor], Tensor] | None,
    eval_transform: Callable[[Tensor], Tensor] | None,
) -> Any:
    """Returns the images of a task as an Avalanche data set, in its evaluation group.

    Args:
        data: images with their ``targets``, e.g. :class:`clpack.data.TensorImages`.
        task_label: the label of the task.
        pixels: makes float images in [0, 1] of the stored ones; a frozen transform, so that every use sees it.
        train_transform: then applied to each image in the training group; None for nothing.
        eval_transform: the same for the evaluation group.
    """
    frozen = make_avalanche_dataset(
        _make_taskaware_classification_dataset(data, task_labels=task_label),
        frozen_transform_groups=DefaultTransformGroups((pixels, None)),
    )
    return _make_taskaware_classification_dataset(
        frozen,
        transform_groups={"train": (train_transform, None), "eval": (eval_transform, None)},
        initial_transform_group="eval",
    )


def in_evaluation_order(dataset: Any) -> Any:
    """Returns a data set in a random order that is always the same.

    Stored images are often sorted by class, and networks that normalize by the statistics of the batch, in evaluation
    too, need batches of mixed classes.
    """
    return dataset.subset(torch.randperm(len(dataset), generator=generator_for(0, "evaluation order")).tolist())


def streams_benchmark(streams: Mapping[str, Sequence[Any]], data_description: str) -> ClassificationScenario:
    """Returns a benchmark of Avalanche's classic family with the given streams.

    Avalanche's ``dataset_benchmark`` would put the test streams into the training group of transforms.

    Args:
        streams: the data sets of each stream, in the group of transforms that they are to be read in.
        data_description: which data these are; becomes the attribute of that name.
    """
    benchmark = ClassificationScenario(stream_definitions={name: (list(sets),) for name, sets in streams.items()})
    benchmark.data_description = data_description
    return benchmark
