"""Benchmarks of a part of the samples: fewer of them, or tested on a part of the training samples."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks import ClassificationScenario

from clpack.randomness import generator_for

from ._substitution import check_val_fraction, hold_out, streams_benchmark

__all__ = ["held_out_benchmark", "thinned_benchmark"]


def held_out_benchmark(benchmark: Any, fraction: float = 0.1) -> ClassificationScenario:
    """Returns a benchmark like another one in which a part of the training samples stands in for the test samples.

    It serves to choose hyper-parameters without the test samples. Of each class of each experience
    ``round(fraction * n)`` of its ``n`` samples are set aside, always the same ones. They are seen through the
    evaluation transform.

    Args:
        benchmark: an Avalanche benchmark of the classic family.
        fraction: the part set aside, in (0, 1).

    Returns:
        The benchmark, with the streams ``train`` and ``test``; its attribute ``data_description`` says what was done.

    Raises:
        TypeError, ValueError: if ``fraction`` is not such a number, or so small that an experience keeps all samples.
    """
    check_val_fraction(fraction)
    streams: dict[str, list[Any]] = {"train": [], "test": []}
    for index, experience in enumerate(benchmark.train_stream):
        data = experience.dataset
        stays, held = hold_out(torch.as_tensor(list(data.targets)), fraction, generator_for(0, "held out", index))
        streams["train"].append(data.subset(stays.tolist()))
        streams["test"].append(data.subset(held.tolist()).eval())
    note = f"tested on {100 * fraction:g} % of the training samples, which are not trained on"
    return streams_benchmark(streams, _described(benchmark, note))


def thinned_benchmark(benchmark: Any, samples_per_class: int) -> ClassificationScenario:
    """Returns a benchmark like another one with fewer samples: the first ones of each class in each experience.

    Args:
        benchmark: an Avalanche benchmark of the classic family.
        samples_per_class: so many at most, in every stream.

    Returns:
        The benchmark, with the same streams; its attribute ``data_description`` says what was done.

    Raises:
        ValueError: if ``samples_per_class`` is not positive.
    """
    if samples_per_class < 1:
        raise ValueError(f"samples_per_class must be at least 1, got {samples_per_class}")
    streams: dict[str, list[Any]] = {}
    for name, stream in benchmark.streams.items():
        streams[name] = []
        for experience in stream:
            data = experience.dataset if name == "train" else experience.dataset.eval()
            targets = torch.as_tensor(list(data.targets))
            by_class = targets.argsort(stable=True).split(targets.bincount().tolist())
            rows = torch.cat([rows[:samples_per_class] for rows in by_class]).sort().values
            streams[name].append(data.subset(rows.tolist()))
    return streams_benchmark(streams, _described(benchmark, f"at most {samples_per_class} samples of each class"))


def _described(benchmark: Any, note: str) -> str:
    described = getattr(benchmark, "data_description", None)
    return note if described is None else f"{described}, {note}"
