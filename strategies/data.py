"""The one path through which our plugins rewrite the data of an experience.

Every sample of an experience can carry a *sample id*, an int64 that stays the same through subsets, concatenations,
replay buffers and later visits: the index of its experience in the upper 32 bits, its row in that experience's
original dataset in the lower 32. Synthetic samples carry -1. Scores, masks and buffers refer to these ids, because
positions in a shuffled loader mean nothing.

A plugin that needs them calls, in this order,

* :func:`attach_sample_ids` in ``before_train_dataset_adaptation``. Plugins later in the list, the adapted dataset,
  the loader and the storage policies then all see the ids; several plugins may call it;
* :func:`batch_field` in any hook of a training iteration, to know which samples are in the mini-batch;
* :func:`keep_samples`, :func:`add_samples` or :func:`replace_samples` in ``after_train_dataset_adaptation``, or in
  ``before_training_exp`` when the model is needed to choose. They rewrite the adapted dataset and rebuild
  ``strategy.dataloader``, so a plugin that builds a loader of its own, as Avalanche's ``ReplayPlugin`` does in
  ``before_training_exp``, must come *after* ours in the plugin list. The benchmark itself is never changed.

A mini-batch is ``[x, y, sample_id, ..., task label]``: the ids sit before the task label, because Avalanche takes the
last column for ``mb_task_id``. Strategies of Avalanche that unpack a mini-batch into exactly three parts (ER-ACE, DER,
SCR, MAS), that take the data from elsewhere (joint training), or that fill a memory before training (GDumb) do not work
with ids attached.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from torch import Tensor

from clpack.data import TensorImages

from ._flat import attribute_values
from .templates import check_not_empty

__all__ = [
    "SAMPLE_ID",
    "add_samples",
    "attach_sample_ids",
    "batch_field",
    "dataset_field",
    "decode_sample_ids",
    "encode_sample_ids",
    "keep_samples",
    "replace_samples",
    "set_experience_data",
    "synthetic_dataset",
]

SAMPLE_ID = "sample_id"
"""Name of the data attribute, and of the mini-batch column, that holds the sample ids."""

_TASK_LABELS = "targets_task_labels"

Storage = Literal["training", "original"]
"""What storage policies see: the data as the plugin rewrote it, or as it came from the stream."""


def encode_sample_ids(experience: int, rows: Tensor) -> Tensor:
    """Returns the sample ids of ``rows`` of the original dataset of an experience.

    Args:
        experience: index of the experience in its stream (``experience.current_experience``).
        rows: int64 tensor of any shape.
    """
    return rows + (experience << 32)


def decode_sample_ids(sample_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the experience index and the row of each sample id; both are -1 for synthetic samples.

    Args:
        sample_ids: int64 tensor of any shape.
    """
    rows = torch.where(sample_ids < 0, sample_ids, sample_ids & 0xFFFFFFFF)
    return sample_ids >> 32, rows


def attach_sample_ids(strategy: Any) -> None:
    """Gives every sample of the current experience its id; call it in ``before_train_dataset_adaptation``.

    ``strategy.experience`` becomes a shallow copy whose dataset carries the ids, for the rest of this experience.
    Does nothing if the dataset has them already.

    Raises:
        ValueError: if the experience has no samples.
    """
    experience = strategy.experience
    data = experience.dataset
    if SAMPLE_ID in data._data_attributes:
        return
    check_not_empty(experience)
    first = experience.current_experience << 32
    ids = DataAttribute(range(first, first + len(data)), SAMPLE_ID, use_in_getitem=True)
    attributes = OrderedDict(data._data_attributes)
    attributes[SAMPLE_ID] = ids
    if _TASK_LABELS in attributes:
        attributes.move_to_end(_TASK_LABELS)
    data = data._shallow_clone_dataset()
    data._data_attributes = attributes
    data.sample_id = ids
    set_experience_data(strategy, data)


def dataset_field(dataset: Any, name: str) -> Tensor:
    """Returns one field of all samples, without reading a single image.

    Args:
        dataset: an ``AvalancheDataset``.
        name: of the data attribute: ``"targets"``, ``"targets_task_labels"``, ``"sample_id"``, ...

    Returns:
        Tensor of shape ``(N,)``, int64 for integer fields.

    Raises:
        ValueError: if the dataset has no such field.
    """
    if name not in dataset._data_attributes:
        raise ValueError(_no_field(name, dataset))
    return torch.from_numpy(attribute_values(dataset._data_attributes[name]))


def batch_field(strategy: Any, name: str) -> Tensor:
    """Returns one column of the current training mini-batch, on ``strategy.device``.

    Args:
        strategy: a strategy inside a training iteration.
        name: of the data attribute: ``"sample_id"``, ``"targets_task_labels"``, ...

    Returns:
        Tensor of shape ``(B,)``; in replay batches, memory samples come with the values they were stored with.

    Raises:
        ValueError: if mini-batches have no such column.
    """
    columns = _columns(strategy.adapted_dataset)
    if name not in columns:
        raise ValueError(_no_field(name, strategy.adapted_dataset))
    column: Tensor = strategy.mbatch[2 + columns.index(name)]
    return column


def keep_samples(strategy: Any, sample_ids: Tensor, *, storage: Storage = "training", **loader_kwargs: Any) -> None:
    """Trains on these samples of the current experience only.

    Samples of other origin in ``strategy.adapted_dataset`` (synthetic ones, those of earlier experiences) stay, and
    so does the order of all that are kept: the same set gives the same training, however it was listed.

    Args:
        strategy: in ``after_train_dataset_adaptation`` or ``before_training_exp``.
        sample_ids: int64 tensor of shape ``(K,)``, ids of the current experience, each once, in any order.
        storage: whether storage policies see only the kept samples ("training") or all of them ("original").
        loader_kwargs: the keyword arguments of the hook, from which the loader is rebuilt.

    Raises:
        TypeError: if the ids are not an integer tensor.
        ValueError: if none is given, one is given twice, or one is not in the training data.
    """
    _check_storage(storage)
    adapted, current = strategy.adapted_dataset, strategy.experience.current_experience
    if not isinstance(sample_ids, Tensor) or sample_ids.dtype != torch.int64 or sample_ids.dim() != 1:
        raise TypeError(f"sample_ids must be an int64 tensor of shape (K,), got {sample_ids!r}")
    kept, counts = sample_ids.cpu().unique(return_counts=True)
    if len(kept) == 0:
        raise ValueError(f"sample_ids is empty: nothing would be left of experience {current}; keep at least one")
    if (counts > 1).any():
        raise ValueError(f"sample_ids holds {kept[counts > 1].tolist()[:5]} more than once; give each sample once")
    present = dataset_field(adapted, SAMPLE_ID)
    unknown = kept[~torch.isin(kept, present) | (decode_sample_ids(kept)[0] != current)]
    if len(unknown):
        raise ValueError(
            f"sample_ids holds {len(unknown)} ids, such as (experience, row) = "
            f"{tuple(int(part) for part in decode_sample_ids(unknown[0]))}, that are not in the training data of "
            f"experience {current}; take them from dataset_field(strategy.adapted_dataset, {SAMPLE_ID!r})"
        )

    def subset(data: Any) -> Any:
        ids = dataset_field(data, SAMPLE_ID)
        stays = torch.isin(ids, kept) | (decode_sample_ids(ids)[0] != current)
        return data.subset(stays.nonzero().flatten().tolist())

    if storage == "training":
        set_experience_data(strategy, subset(strategy.experience.dataset))
    _set_training_data(strategy, subset(adapted), loader_kwargs)


def add_samples(strategy: Any, dataset: Any, *, storage: Storage = "original", **loader_kwargs: Any) -> None:
    """Trains on the samples of ``dataset`` too, shuffled among the others.

    Args:
        strategy: in ``after_train_dataset_adaptation`` or ``before_training_exp``.
        dataset: an ``AvalancheDataset`` with the fields of the training data, e.g. of :func:`synthetic_dataset`.
        storage: whether storage policies see the added samples ("training") or not ("original").
        loader_kwargs: the keyword arguments of the hook, from which the loader is rebuilt.

    Raises:
        ValueError: if ``dataset`` is empty or its fields differ from those of the training data.
    """
    _check_storage(storage)
    _check_fields(strategy.adapted_dataset, dataset)
    if storage == "training":
        set_experience_data(strategy, strategy.experience.dataset.concat(dataset))
    _set_training_data(strategy, strategy.adapted_dataset.concat(dataset), loader_kwargs)


def replace_samples(strategy: Any, dataset: Any, *, storage: Storage = "original", **loader_kwargs: Any) -> None:
    """Trains on ``dataset`` instead of the current training data.

    Args:
        strategy: in ``after_train_dataset_adaptation`` or ``before_training_exp``.
        dataset: an ``AvalancheDataset`` with the fields of the training data, e.g. of :func:`synthetic_dataset`.
        storage: whether storage policies see ``dataset`` ("training") or the data of the stream ("original").
        loader_kwargs: the keyword arguments of the hook, from which the loader is rebuilt.

    Raises:
        ValueError: if ``dataset`` is empty or its fields differ from those of the training data.
    """
    _check_storage(storage)
    _check_fields(strategy.adapted_dataset, dataset)
    if storage == "training":
        set_experience_data(strategy, dataset)
    _set_training_data(strategy, dataset.train(), loader_kwargs)


def synthetic_dataset(
    like: Any,
    images: Tensor,
    targets: Tensor | Sequence[int],
    task_labels: int | Sequence[int] | None = None,
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    fields: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """Makes a dataset of in-memory images that can be concatenated, replayed and collated with ``like``.

    It has the class, the collate function and the fields of ``like``, in the same order, and sample id -1.

    Args:
        like: the ``AvalancheDataset`` to match: the training data, or that of an experience.
        images: tensor of shape ``(N, ...)``, as the model takes them: no transform of ``like`` is applied to them.
        targets: ``N`` class labels.
        task_labels: one label for all, or ``N`` of them; default: that of ``like`` if it has only one.
        transform: applied to each image, in training and evaluation alike. Default: none.
        fields: the values, ``N`` for each, of further fields of ``like``.

    Raises:
        ValueError: if shape or type of the images are not those of the transformed samples of ``like``, if a field
            of ``like`` has no values or is unknown, or if the lengths differ.
    """
    data = TensorImages(images, targets)
    if len(data) == 0:
        raise ValueError("images is empty, expected at least one")
    with torch.random.fork_rng(devices=[]):  # looking at a sample must not shift the random stream of the run
        sample = like.eval()[0][0]
    expected = (*sample.shape, sample.dtype) if isinstance(sample, Tensor) else type(sample).__name__
    if (found := (*images.shape[1:], images.dtype)) != expected and transform is None:
        raise ValueError(f"each of images must be like the samples of the stream, {expected}, got {found}")

    values: dict[str, Sequence[Any]] = {"targets": data.targets, SAMPLE_ID: [-1] * len(data), **(fields or {})}
    if _TASK_LABELS in like._data_attributes:
        values[_TASK_LABELS] = _task_labels(like, task_labels, len(data))
    elif task_labels is not None:
        raise ValueError(f"task_labels is {task_labels!r}, but the stream has no task labels; leave it out")
    missing = [name for name in like._data_attributes if name not in values]
    unknown = [name for name in fields or {} if name not in like._data_attributes]
    if missing or unknown:
        raise ValueError(f"fields must hold values for {missing} and nothing else, got {sorted(fields or {})}")
    attributes = []
    for name, attribute in like._data_attributes.items():
        if len(values[name]) != len(data):
            raise ValueError(f"field {name!r} must hold one value per image, got {len(values[name])} for {len(data)}")
        attributes.append(DataAttribute(list(values[name]), name, use_in_getitem=attribute.use_in_getitem))
    groups = None if transform is None else {"train": (transform, None), "eval": (transform, None)}
    return type(like)([data], data_attributes=attributes, transform_groups=groups, collate_fn=like.collate_fn)


def _task_labels(like: Any, task_labels: int | Sequence[int] | None, count: int) -> list[int]:
    if task_labels is None:
        present = dataset_field(like, _TASK_LABELS).unique().tolist()
        if len(present) != 1:
            raise ValueError(f"task_labels must be given, because the stream's data holds several: {present}")
        task_labels = int(present[0])
    return [task_labels] * count if isinstance(task_labels, int) else [int(label) for label in task_labels]


def _columns(dataset: Any) -> list[str]:
    """Names of the mini-batch columns after x and y."""
    return [attribute.name for attribute in dataset._data_attributes.values() if attribute.use_in_getitem]


def _no_field(name: str, dataset: Any) -> str:
    hint = "; call attach_sample_ids in before_train_dataset_adaptation" if name == SAMPLE_ID else ""
    return f"the data has no field {name!r}, only {list(dataset._data_attributes)}{hint}"


def _check_storage(storage: str) -> None:
    if storage not in ("training", "original"):
        raise ValueError(f"storage must be 'training' or 'original', got {storage!r}")


def _check_fields(adapted: Any, dataset: Any) -> None:
    def fields(data: Any) -> Any:
        if not isinstance(data, AvalancheDataset):
            return type(data).__name__
        return [(attribute.name, attribute.use_in_getitem) for attribute in data._data_attributes.values()]

    if fields(dataset) != fields(adapted):
        raise ValueError(
            "dataset must be an AvalancheDataset with the fields (name, whether in the mini-batch) of the training "
            f"data, {fields(adapted)}, got {fields(dataset)}; build it with synthetic_dataset"
        )
    if len(dataset) == 0:
        raise ValueError("dataset is empty, expected at least one sample")


def set_experience_data(strategy: Any, dataset: Any) -> None:
    """Lets storage policies, and all that reads ``strategy.experience``, see ``dataset``."""
    experience = copy.copy(strategy.experience)
    experience._dataset = dataset  # the newer experiences have no setter
    strategy.experience = experience


def _set_training_data(strategy: Any, dataset: Any, loader_kwargs: dict[str, Any]) -> None:
    strategy.adapted_dataset = dataset
    strategy.make_train_dataloader(**loader_kwargs)
