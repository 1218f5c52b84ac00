"""A benchmark from which training samples were removed beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from avalanche.benchmarks import dataset_benchmark
from numpy.typing import NDArray

__all__ = ["pruned_benchmark"]


def pruned_benchmark(benchmark: Any, kept: Mapping[int, NDArray[Any] | Sequence[int]]) -> Any:
    """Returns a benchmark like another one that trains on some of the samples only.

    Labels, task labels, transforms and the other streams are those of ``benchmark``, which stays as it is. Rows of the
    new experiences, and with them sample ids, count the samples kept.

    Args:
        benchmark: an Avalanche benchmark of the classic family (``nc_benchmark``, ``dataset_benchmark``), with a train
            and a test stream.
        kept: for each training experience by index, the rows of its dataset that stay, e.g. the ``kept`` of
            ``PruningPlugin.selections``. Experiences that are not named stay whole.

    Raises:
        ValueError: if there is no such experience, or rows are repeated, out of range or none.
        TypeError: if the rows are not integers.
    """
    sizes = [len(experience.dataset) for experience in benchmark.train_stream]
    for index, rows in kept.items():
        if index not in range(len(sizes)):
            raise ValueError(
                f"kept names experience {index}, but the benchmark has the experiences 0 to {len(sizes) - 1}"
            )
        array = np.asarray(rows, dtype=None if len(rows) else np.int64)
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise TypeError(f"kept[{index}] must hold integer row numbers, got {array.dtype}, shape {array.shape}")
        if len(array) == 0 or array.min() < 0 or array.max() >= sizes[index] or len(np.unique(array)) < len(array):
            raise ValueError(
                f"kept[{index}] must hold at least one row from 0 to {sizes[index] - 1}, each at most once, "
                f"got {len(array)} rows" + (f" from {array.min()} to {array.max()}" if len(array) else "")
            )
    train = [
        experience.dataset.subset(np.sort(np.asarray(kept[index])).tolist()) if index in kept else experience.dataset
        for index, experience in enumerate(benchmark.train_stream)
    ]
    others = {
        name: [experience.dataset.eval() for experience in stream]
        for name, stream in benchmark.streams.items()
        if name != "train"
    }
    return dataset_benchmark(train, others.pop("test"), other_streams_datasets=others)
