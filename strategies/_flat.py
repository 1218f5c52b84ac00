"""Reading the tree of subsets and concatenations behind an Avalanche dataset in one go, not sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from avalanche.benchmarks.utils.data import _FlatDataWithTransform
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.flat_data import ConstantSequence, FlatData
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Leaf", "attribute_values", "flatten"]


class Leaf(NamedTuple):
    """A dataset (or a sequence of values) at the bottom of the tree.

    Attributes:
        data: the object itself; its row ``r`` is ``data[r]``.
        transforms: what the nodes above apply to its samples in their active groups, in order.
    """

    data: Any
    transforms: tuple[Any, ...]


def flatten(node: Any, group: str | None = None) -> tuple[list[Leaf], NDArray[np.int64], NDArray[np.int64]]:
    """Resolves a tree of ``FlatData`` nodes.

    Args:
        node: the root, or any dataset or sequence (then it is the only leaf).
        group: the transform group that a parent imposes; default: each root's own current group.

    Returns:
        The leaves, and for each sample of ``node`` the index of its leaf and its row there.

    Raises:
        KeyError: if a node has no transform group of that name.
    """
    if isinstance(node, DataAttribute):
        node = node.data
    if not isinstance(node, FlatData):
        return [Leaf(node, ())], np.zeros(len(node), dtype=np.int64), np.arange(len(node))

    transforms: tuple[Any, ...] = ()
    if isinstance(node, _FlatDataWithTransform):
        group = group or node._transform_groups.current_group
        active = (node._frozen_transform_groups, node._transform_groups)
        transforms = tuple(groups.transform_groups[group] for groups in active)
    else:
        group = None  # a plain node indexes its children, so each of them applies its own current group

    leaves: list[Leaf] = []
    leaf, row = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for child in node._datasets:
        child_leaves, child_leaf, child_row = flatten(child, group)
        leaf.append(child_leaf + len(leaves))
        row.append(child_row)
        leaves += [Leaf(data, inner + transforms) for data, inner in child_leaves]
    leaf_of, row_of = np.concatenate(leaf), np.concatenate(row)
    if node._indices is not None:
        chosen = np.fromiter(node._indices, dtype=np.int64, count=len(node._indices))
        leaf_of, row_of = leaf_of[chosen], row_of[chosen]
    return leaves, leaf_of, row_of


def attribute_values(attribute: Any) -> NDArray[Any]:
    """Returns the values of a data attribute (or of any sequence of labels) as one array, in sample order."""
    leaves, leaf_of, row_of = flatten(attribute)
    if not leaves:
        return np.zeros(0, dtype=np.int64)
    starts = np.cumsum([0, *(len(leaf.data) for leaf in leaves)])
    values: NDArray[Any] = np.concatenate([_array(leaf.data) for leaf in leaves])
    return values[starts[leaf_of] + row_of]


def _array(values: Sequence[Any]) -> NDArray[Any]:
    if isinstance(values, ConstantSequence):
        return np.full(len(values), values[0]) if len(values) else np.zeros(0, dtype=np.int64)
    if isinstance(values, range):
        return np.arange(values.start, values.stop, values.step)
    if isinstance(values, Tensor):
        return values.cpu().numpy()
    return np.asarray(values if isinstance(values, list | np.ndarray) else list(values))
