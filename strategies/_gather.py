"""In-memory datasets as arrays, from which a whole mini-batch is gathered at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.classification_dataset import _TensorClassificationDataset, lookup
from avalanche.benchmarks.utils.transforms import MultiParamCompose, MultiParamTransform, TupleTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, TensorDataset, default_collate
from torchvision.datasets import CIFAR10, CIFAR100, KMNIST, MNIST, FashionMNIST
from torchvision.transforms import Compose, ConvertImageDtype, Normalize, ToTensor

from clpack.data import BatchTransform, TensorImages

from ._flat import Leaf, attribute_values, flatten

__all__ = ["GatheredData", "NotGatherableError"]


class NotGatherableError(Exception):
    """The data cannot be gathered batch by batch; with a message if the user should hear why."""


class _Source(NamedTuple):
    """Images in memory, and what is done to them on their way into a batch."""

    images: Tensor
    steps: tuple[Callable[[Tensor], Tensor], ...]

    def batch(self, rows: Tensor) -> Tensor:
        batch = self.images.index_select(0, rows)
        for step in self.steps:
            batch = step(batch)
        return batch


class GatheredData(Dataset[list[Tensor]]):
    """Serves whole mini-batches of a concatenation of datasets, as a torch ``DataLoader`` asks for them.

    Args:
        datasets: the ``AvalancheDataset`` objects, each in the transform group to read it in.

    Raises:
        NotGatherableError: if a dataset, a transform or a field is not of a known kind.
    """

    def __init__(self, datasets: list[Any]) -> None:
        self._sources: list[_Source] = []
        positions: dict[tuple[int, ...], int] = {}  # of the sources, which data and memory often share
        source_of, row_of, columns = [], [], []
        for dataset in datasets:
            if not isinstance(dataset, AvalancheDataset) or len(dataset) == 0:
                raise NotGatherableError
            leaves, leaf_of, rows = flatten(dataset._flat_data)
            sources, labels = np.zeros_like(rows), np.zeros_like(rows)
            for number, leaf in enumerate(leaves):
                here = leaf_of == number
                if not here.any():  # replay buffers keep whole datasets for the sake of a few samples
                    continue
                image_transforms, label_transforms = _split_transforms(leaf)
                key = (id(leaf.data), *map(id, image_transforms))
                if key not in positions:
                    positions[key] = len(self._sources)
                    self._sources.append(_source(leaf.data, image_transforms))
                sources[here] = positions[key]
                labels[here] = _labels(leaf.data, label_transforms)[rows[here]]
            source_of.append(sources)
            row_of.append(rows)
            shown = [attribute for attribute in dataset._data_attributes.values() if attribute.use_in_getitem]
            columns.append([labels, *map(attribute_values, shown)])
        if len({len(part) for part in columns}) > 1:
            raise NotGatherableError
        self._source_of = torch.from_numpy(np.concatenate(source_of))
        self._row_of = torch.from_numpy(np.concatenate(row_of))
        self._columns = [_column(parts) for parts in zip(*columns, strict=True)]
        self._compare_with(ConcatDataset(datasets))

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        index = torch.tensor(indices)
        return [self._images(index), *(column.index_select(0, index) for column in self._columns)]

    def _images(self, index: Tensor) -> Tensor:
        rows = self._row_of.index_select(0, index)
        if len(self._sources) == 1:
            return self._sources[0].batch(rows)
        source_of = self._source_of.index_select(0, index)
        batch = torch.empty(0)
        for source in source_of.unique().tolist():
            here = (source_of == source).nonzero().flatten()
            images = self._sources[source].batch(rows[here])
            if len(batch) == 0:
                batch = images.new_empty(len(index), *images.shape[1:])
            batch[here] = images
        return batch

    def _compare_with(self, dataset: Any) -> None:
        """Reads the first, middle and last sample of each source both ways."""
        kinds = set()
        for source in range(len(self._sources)):
            places = (self._source_of == source).nonzero().flatten()
            indices = places[[0, len(places) // 2, -1]].tolist()
            plain, gathered = default_collate([dataset[index] for index in indices]), self.__getitems__(indices)
            if len(plain) != len(gathered) or not all(map(_same, plain, gathered)):
                raise NotGatherableError(f"gathered as a batch, samples {indices} come out different")
            kinds.add((gathered[0].dtype, gathered[0].shape))
        if len(kinds) > 1:
            raise NotGatherableError


def _same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(left, right)


def _column(parts: tuple[NDArray[Any], ...]) -> Tensor:
    values = np.concatenate(parts)
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise NotGatherableError
    return torch.from_numpy(values)


def _split_transforms(leaf: Leaf) -> tuple[list[Any], list[Any]]:
    """Returns the transforms of a leaf's images and those of its labels, each as a flat list."""
    on_images, on_labels = _flat_transforms(getattr(leaf.data, "transform", None)), []
    for transform in leaf.transforms:
        for part in transform.transforms if isinstance(transform, MultiParamCompose) else [transform]:
            if isinstance(part, TupleTransform) and len(part.transforms) <= 2:
                on_image, on_label = (*part.transforms, None, None)[:2]
                on_images += _flat_transforms(on_image)
                on_labels += _flat_transforms(on_label)
            elif isinstance(part, MultiParamTransform):
                raise NotGatherableError
            else:
                on_images += _flat_transforms(part)
    return on_images, on_labels


def _flat_transforms(transform: Any) -> list[Any]:
    if transform is None:
        return []
    if type(transform) is Compose:
        return [part for inner in transform.transforms for part in _flat_transforms(inner)]
    return [transform]


def _labels(leaf: Any, transforms: list[Any]) -> NDArray[np.int64]:
    """Returns the labels of all rows of a leaf, renumbered by the transforms."""
    values = leaf.tensors[1] if isinstance(leaf, TensorDataset) else getattr(leaf, "targets", None)
    if values is None or getattr(leaf, "target_transform", None) is not None:
        raise NotGatherableError
    labels = attribute_values(values)
    for transform in transforms:
        if not isinstance(transform, functools.partial) or transform.func is not lookup:
            raise NotGatherableError
        labels = np.asarray(transform.args[0])[labels]
    if labels.dtype != np.int64:
        raise NotGatherableError
    return labels


def _source(leaf: Any, transforms: list[Any]) -> _Source:
    kind = type(leaf)
    if kind is TensorImages:
        source = _Source(leaf.images, ())
    elif kind in (TensorDataset, _TensorClassificationDataset) and len(leaf.tensors) == 2:
        source = _Source(leaf.tensors[0], ())
    elif kind is TensorMNIST:
        source = _Source(leaf.data, (_scale_mnist,))
    elif kind in (MNIST, FashionMNIST, KMNIST, CIFAR10, CIFAR100) and transforms and type(transforms[0]) is ToTensor:
        source = _Source(torch.as_tensor(leaf.data), (_to_tensor,))  # their PIL images hold just these bytes
        transforms = transforms[1:]
    else:
        raise NotGatherableError
    if source.images.device.type != "cpu":
        raise NotGatherableError
    return _Source(source.images, (*source.steps, *map(_on_batches, transforms)))


def _scale_mnist(images: Tensor) -> Tensor:
    return images.float().unsqueeze(1) / 255.0  # TensorMNIST's own words


def _to_tensor(images: Tensor) -> Tensor:
    """``ToTensor`` for a batch of uint8 images, ``(B, H, W)`` or ``(B, H, W, C)``."""
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images.to(torch.get_default_dtype()).div(255)


def _on_batches(transform: Any) -> Callable[[Tensor], Tensor]:
    """Returns a transform of single images as one of whole batches."""
    if type(transform) is PixelsPermutation:
        permutation = torch.as_tensor(transform.permutation)
        return lambda images: images.flatten(1).index_select(1, permutation).view(images.shape)
    known = isinstance(transform, BatchTransform) or type(transform) in (ConvertImageDtype, Normalize)
    if not known or getattr(transform, "inplace", False):
        raise NotGatherableError
    step: Callable[[Tensor], Tensor] = transform
    return step
