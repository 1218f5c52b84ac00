"""Streams whose experiences have the same classes, and samples of other scores: the easy ones first, or the hard ones.

With ``score_ranges=[[0, 1], [1, None]]`` and the number of forgetting events as scores, the first experience has the
samples that were never forgotten and the second one the others, as in the two-task experiment of [1]. Without scores
the samples are shared out at random. The data are those of the noisy streams, without the noise.

References:
    [1] M. Toneva et al. An Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019,
        arXiv:1812.05159, figure 4.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from avalanche.benchmarks import ClassificationScenario
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from numpy.typing import ArrayLike
from torch import Tensor

from clpack.randomness import generator_for

from ._class_order import check_n_experiences, check_seed
from ._substitution import drawn_seed, streams_benchmark
from .noise import Augmentation
from .registry import check, describe, get

__all__ = ["ScoreSplitCIFAR10", "ScoreSplitDigits", "ScoreSplitMNIST", "check_options"]

_Range = Sequence[float | None]
_DATA = {"ScoreSplitDigits": "NoisyDigits", "ScoreSplitMNIST": "NoisyMNIST", "ScoreSplitCIFAR10": "NoisyCIFAR10"}


def _score_split(name: str) -> Callable[..., ClassificationScenario]:
    """Returns the function that opens a stream."""
    info = describe(name)

    def open_stream(
        n_experiences: int = 2,
        *,
        return_task_id: bool = False,
        seed: int | None = None,
        scores: ArrayLike | None = None,
        score_ranges: Sequence[_Range] | None = None,
        images_per_experience: int | None = None,
        augmentation: Augmentation = "none",
        dataset_root: str | os.PathLike[str] | None = None,
    ) -> ClassificationScenario:
        check_options({**locals(), "stream": name})
        generator = generator_for(drawn_seed(seed), "samples of the experiences")
        whole = get(_DATA[name], n_experiences=1, seed=0, augmentation=augmentation, dataset_root=dataset_root)
        train, test = whole.train_stream[0].dataset, whole.test_stream[0].dataset
        order = torch.randperm(len(train), generator=generator)
        if score_ranges is None:
            groups = list(order.tensor_split(n_experiences))
        else:
            ranked = _as_scores(scores, len(train))[order]
            groups = [order[_within(ranked, bounds)] for bounds in score_ranges]
        streams: dict[str, list[Any]] = {"train": [], "test": []}
        for experience, group in enumerate(groups):
            if len(group) < (images_per_experience or 1):
                where = f" with scores in {list(score_ranges[experience])}" if score_ranges is not None else ""
                raise ValueError(
                    f"experience {experience} must have at least {images_per_experience or 1} samples{where}, but "
                    f"there are {len(group)} of {len(train)}; lower images_per_experience, or change score_ranges"
                )
            rows = group[:images_per_experience].sort().values
            label = experience if return_task_id else 0
            for part, dataset in (("train", train.subset(rows.tolist()).train()), ("test", test.eval())):
                streams[part].append(_make_taskaware_classification_dataset(dataset, task_labels=label))
        return streams_benchmark(streams, info.data_set or "scikit-learn's digits")

    missing = (
        "" if info.embedded else "\n        FileNotFoundError: if a file is missing; the message says where to get it."
    )
    open_stream.__name__ = open_stream.__qualname__ = name
    open_stream.__doc__ = f"""Shares the training images of {info.data_set or "scikit-learn's digits"} out by a score.

    Images, their order and their normalization are those of :func:`~clpack.benchmarks.{_DATA[name]}` with one
    experience. All experiences have the same labels, and all test images; no training image is in two of them.

    Args:
        n_experiences: number of experiences. With 1, and no other argument that picks samples, it has all of them.
        return_task_id: True labels the experiences 0, 1, ...; False labels all of them 0.
        seed: seed of the choice of samples; None draws it from the present state of torch's global generator, which
            stays as it is.
        scores: shape ``(N,)``, one for each of the ``N`` training images, in their order in this stream with one
            experience. Samples without a score (NaN) are in no range; infinity is a score.
        score_ranges: for each experience ``[low, high]``: it has samples with scores of at least ``low`` and less than
            ``high``; None is no bound. Ranges must not overlap. Default: samples are shared out at random.
        images_per_experience: how many samples each experience has, drawn at random from those in its range. Default:
            all of them, and equal shares if there are no ranges.
        augmentation: of the training images, as in :func:`~clpack.benchmarks.{_DATA[name]}`.
        dataset_root: folder of the data sets; None means the environment variable ``CLPACK_DATA``, and if that is
            unset, ``~/.clpack``.{" Without effect here." if info.embedded else ""}

    Returns:
        The benchmark, of Avalanche's classic family.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument has an impossible value, one of ``scores`` and ``score_ranges`` is given without the
            other, or an experience has too few samples.{missing}
    """
    return open_stream


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments of a stream, all of them by name, and with them the name of the stream as ``stream``.

    Raises:
        TypeError, ValueError: if one has an impossible value.
    """
    n_experiences, number = arguments["n_experiences"], arguments["images_per_experience"]
    check_n_experiences(n_experiences)
    if arguments["seed"] is not None:
        check_seed(arguments["seed"])
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        raise ValueError(f"images_per_experience must be a positive integer or None, got {number!r}")
    if (arguments["scores"] is None) != (arguments["score_ranges"] is None):
        missing = "scores" if arguments["scores"] is None else "score_ranges"
        raise ValueError(f"scores and score_ranges go together, but {missing} is None; give both or neither")
    if arguments["score_ranges"] is not None:
        _check_ranges(arguments["score_ranges"], n_experiences)
    check(_DATA[arguments["stream"]], n_experiences=1, seed=0, augmentation=arguments["augmentation"])


def _check_ranges(ranges: Any, n_experiences: int) -> None:
    given = f"got {ranges!r}"
    if not isinstance(ranges, Sequence) or isinstance(ranges, str) or len(ranges) != n_experiences:
        raise ValueError(f"score_ranges must hold one range for each of the {n_experiences} experiences, {given}")
    for bounds in ranges:
        if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
            raise ValueError(f"score_ranges must hold pairs [low, high], {given}")
        if not all(bound is None or (isinstance(bound, Real) and not isinstance(bound, bool)) for bound in bounds):
            raise TypeError(f"score_ranges must hold numbers, or None for no bound, {given}")
    edges = sorted(
        (-math.inf if low is None else float(low), math.inf if high is None else float(high)) for low, high in ranges
    )
    if not all(low < high for low, high in edges):
        raise ValueError(f"score_ranges must hold pairs [low, high] with low < high, {given}")
    if any(after < high for (_, high), (after, _) in itertools.pairwise(edges)):
        raise ValueError(f"score_ranges must not overlap, {given}")


def _as_scores(scores: Any, n: int) -> Tensor:
    values = torch.as_tensor(scores, dtype=torch.float64, device="cpu")
    if values.shape != (n,):
        raise ValueError(
            f"scores must hold one for each of the {n} training images, shape ({n},), got {tuple(values.shape)}"
        )
    return values


def _within(scores: Tensor, bounds: _Range) -> Tensor:
    """Returns which scores are in a range; NaN is in none."""
    low, high = bounds
    inside = ~scores.isnan() if low is None else scores >= low
    return inside if high is None else inside & (scores < high)


ScoreSplitDigits = _score_split("ScoreSplitDigits")
ScoreSplitMNIST = _score_split("ScoreSplitMNIST")
ScoreSplitCIFAR10 = _score_split("ScoreSplitCIFAR10")
