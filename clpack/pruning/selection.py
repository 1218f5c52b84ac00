"""From scores to the samples that stay.

Scores are arrays or tensors of shape ``(N,)``; NaN marks a sample without a score, which is always kept. The results
hold row numbers of the original data set.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
    [2] M. Toneva et al. An Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019,
        arXiv:1812.05159. Authors' code: github.com/mtoneva/example_forgetting (MIT).
    [3] H. Zheng et al. Coverage-centric Coreset Selection for High Pruning Rates. ICLR 2023, arXiv:2210.15809.
        Authors' code: github.com/haizhongzheng/Coverage-centric-coreset-selection.
    [4] X. Xia et al. Moderate Coreset: A Universal Method of Data Selection for Real-world Data-efficient Deep
        Learning. ICLR 2023. Authors' code: github.com/tmllab/2023_ICLR_Moderate-DS.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ._arrays import Values, as_array, as_labels, as_scores

__all__ = [
    "ClassCounts",
    "Selection",
    "cap_of_class",
    "class_median_distance",
    "coverage_centric",
    "keep_slice",
    "moderate",
    "number_to_remove",
    "random_sets",
    "removal_order",
    "select",
]

Ids = NDArray[np.int64]
Remove = Literal["highest", "lowest"]
TieBreak = Literal["index", "random"] | Values


class ClassCounts(NamedTuple):
    """How many samples of a class were kept and removed."""

    kept: int
    removed: int


@dataclass(frozen=True)
class Selection:
    """Which samples stay.

    Attributes:
        kept: int64 array, ascending row numbers.
        removed: int64 array, ascending row numbers: all others.
        counts: for each class of the targets, ascending, how many of it were kept and removed; empty without targets.
    """

    kept: Ids
    removed: Ids
    counts: dict[int, ClassCounts]


def select(
    scores: Values,
    *,
    remove_fraction: float | None = None,
    remove_count: int | None = None,
    remove: Remove = "highest",
    targets: Values | None = None,
    class_cap: int | Literal["balanced"] | None = None,
    min_per_class: int = 0,
    tie_break: TieBreak = "index",
    generator: torch.Generator | None = None,
) -> Selection:
    """Removes the samples with the highest, or the lowest, scores.

    The samples are visited in :func:`removal_order`. One is removed if fewer than the requested number were removed
    so far, fewer than ``class_cap`` of its class, and more than ``min_per_class`` of its class would be left. So caps
    and minima may let fewer be removed than requested.

    Args:
        scores: shape ``(N,)``, see the module.
        remove_fraction: of all ``N`` samples, in [0, 1); the count is rounded, half to even, as in [1].
        remove_count: instead of a fraction, in [0, N).
        remove: which end is removed. :data:`clpack.pruning.SCORES` has the usual one of each score.
        targets: class labels of shape ``(N,)``, needed for what concerns classes, and for the counts.
        class_cap: how many of each class may be removed. Default: any number, as in the text of [1].
            ``"balanced"``: the requested number divided by the number of classes, rounded down, as in the code of
            [1].
        min_per_class: how many of each class are kept at least; 1 keeps every class alive.
        tie_break: see :func:`removal_order`.
        generator: see :func:`removal_order`.

    Raises:
        ValueError: if an argument is out of range or missing, or fewer samples have a score than are to be removed.
        TypeError: if an array is of the wrong type.
    """
    values = as_scores("scores", scores)
    count = number_to_remove(len(values), remove_fraction, remove_count)
    order = removal_order(values, remove=remove, tie_break=tie_break, generator=generator)
    if count > len(order):
        raise ValueError(
            f"{count} samples are to be removed, but only {len(order)} of {len(values)} have a score; remove fewer, or "
            "record more presentations"
        )
    if min_per_class < 0:
        raise ValueError(f"min_per_class must not be negative, got {min_per_class}")
    if class_cap is not None or min_per_class:
        if targets is None:
            raise ValueError("targets is missing: class_cap and min_per_class need the class labels of the samples")
        _, classes = np.unique(as_labels(targets, len(values)), return_inverse=True)
        quotas = np.maximum(np.bincount(classes) - min_per_class, 0)
        if class_cap is not None:
            quotas = np.minimum(quotas, cap_of_class(class_cap, count, len(quotas)))
        order = order[_rank_in_group(classes[order]) < quotas[classes[order]]]
    return _without(order[:count], len(values), targets)


def removal_order(
    scores: Values,
    *,
    remove: Remove = "highest",
    tie_break: TieBreak = "index",
    generator: torch.Generator | None = None,
) -> Ids:
    """Returns the samples that have a score, the one to remove first in front.

    Args:
        scores: shape ``(N,)``, see the module.
        remove: which end comes first; ``"lowest"`` is the ascending order.
        tie_break: among equal scores, the lower row number goes first (``"index"``), or the order is drawn
            (``"random"``, as in the paper of [2]), or the lower number of an array of shape ``(N,)`` goes first, e.g.
            :attr:`clpack.pruning.Trace.first_seen`, as in the code of MLI.
        generator: for random ties. Default: torch's global generator.

    Returns:
        Int64 array of shape ``(M,)``; the ``N - M`` samples without a score are absent.

    Raises:
        ValueError: if an option is unknown or a shape wrong.
        TypeError: if an array is of the wrong type.
    """
    values = as_scores("scores", scores)
    if remove not in ("highest", "lowest"):
        raise ValueError(f"remove must be 'highest' or 'lowest', got {remove!r}")
    if not isinstance(tie_break, str):
        priority: NDArray[Any] = as_scores("tie_break", tie_break, len(values))
    elif tie_break == "random":
        priority = torch.randperm(len(values), generator=generator).numpy()
    elif tie_break == "index":
        priority = np.arange(len(values))
    else:
        raise ValueError(f"tie_break must be 'index', 'random' or an array of shape (N,), got {tie_break!r}")
    order = np.lexsort((priority, -values if remove == "highest" else values))
    return order[~np.isnan(values[order])]


def keep_slice(
    order: Values | None,
    n_total: int,
    *,
    remove_n: int = 0,
    keep_lowest_n: int = 0,
    remove_subsample: int = 0,
    targets: Values | None = None,
    generator: torch.Generator | None = None,
    strict: bool = True,
) -> Selection:
    """The removal options of the scripts of [2] and of MLI.

    * ``keep_lowest_n >= 0``: removes ``order[keep_lowest_n : keep_lowest_n + remove_n]``, or what there is of it;
      samples that are not in ``order`` stay. Without an ``order`` nothing is removed.
    * ``keep_lowest_n < 0``: removes ``remove_n`` samples at random, whatever the ``order``.
    * ``remove_subsample > 0`` (and ``keep_lowest_n >= 0``): removes that many, at random, of the first
      ``keep_lowest_n``; ``remove_n`` has no effect, and samples that are not in ``order`` are removed.

    Args:
        order: row numbers in ascending order of importance, each at most once, e.g. of :func:`removal_order`.
        n_total: the number of samples of the data set.
        remove_n: see above.
        keep_lowest_n: see above.
        remove_subsample: see above.
        targets: class labels of shape ``(n_total,)``, for the counts.
        generator: for random removal. Default: torch's global generator.
        strict: whether to refuse a ``remove_n`` that is larger than the number of samples to choose from. If not,
            all of these are removed, as the scripts do.

    Raises:
        ValueError: if an argument is out of range.
        TypeError: if an array is of the wrong type.
    """
    ids = None if order is None else _checked_order(order, n_total)
    if remove_n < 0 or remove_subsample < 0:
        raise ValueError(f"remove_n and remove_subsample must not be negative, got {remove_n} and {remove_subsample}")
    available = n_total if ids is None else len(ids)
    if strict and remove_n > available:
        raise ValueError(f"remove_n must be at most the {available} samples to choose from, got {remove_n}")
    if keep_lowest_n < 0:
        shuffled = torch.randperm(n_total, generator=generator).numpy()
        return _without(shuffled[max(n_total - remove_n, 0) :], n_total, targets)
    if remove_subsample:
        if ids is None:
            raise ValueError(f"order is missing: remove_subsample={remove_subsample} thins out its front")
        if remove_subsample > keep_lowest_n or keep_lowest_n > len(ids):
            raise ValueError(
                f"remove_subsample must be at most keep_lowest_n, and that at most the {len(ids)} samples of order, "
                f"got {remove_subsample} and {keep_lowest_n}"
            )
        thinned = torch.randperm(keep_lowest_n, generator=generator).numpy()[remove_subsample:]
        kept = np.concatenate((ids[thinned], ids[keep_lowest_n:]))
        return _without(np.setdiff1d(np.arange(n_total), kept), n_total, targets)
    if ids is None:
        ids = np.empty(0, dtype=np.int64)
    return _without(ids[keep_lowest_n : keep_lowest_n + remove_n], n_total, targets)


def coverage_centric(
    scores: Values,
    *,
    keep_fraction: float,
    cutoff_fraction: float,
    cutoff_scores: Values | None = None,
    n_strata: int = 50,
    targets: Values | None = None,
    generator: torch.Generator | None = None,
) -> Selection:
    """CCS [3]: drops the hardest samples, and draws the rest evenly over the range of the scores.

    The samples that remain after the cut-off are split into strata of equal width in the score. From the smallest
    stratum to the largest, those of equal size in random order, each gives as many samples as its share of the budget
    that is left, drawn without replacement, or all that it has.

    Args:
        scores: shape ``(N,)``, see the module; finite where they are not NaN.
        keep_fraction: of all ``N`` samples, in (0, 1]; the count is rounded down, as in the authors' code.
        cutoff_fraction: of all ``N`` samples, in [0, 1); the count is rounded down. [3] uses 0.3 to keep 10 % of
            CIFAR-10.
        cutoff_scores: the samples that are lowest in these, of shape ``(N,)``, are dropped first: low has to mean
            hard, as with :func:`~clpack.pruning.area_under_margin`. Default: ``scores``.
        n_strata: number of strata.
        targets: class labels of shape ``(N,)``, for the counts.
        generator: where to draw from. Default: torch's global generator.

    Raises:
        ValueError: if an argument is out of range, or fewer samples remain after the cut-off than are to be kept.
        TypeError: if an array is of the wrong type.
    """
    values = as_scores("scores", scores)
    hardness = values if cutoff_scores is None else as_scores("cutoff_scores", cutoff_scores, len(values))
    if not 0 < keep_fraction <= 1 or not 0 <= cutoff_fraction < 1:
        raise ValueError(
            f"keep_fraction must be in (0, 1] and cutoff_fraction in [0, 1), got {keep_fraction} and {cutoff_fraction}"
        )
    if n_strata < 1:
        raise ValueError(f"n_strata must be at least 1, got {n_strata}")
    if np.isinf(values).any():
        raise ValueError(
            "scores must be finite to be split into strata, got inf; for forgetting give a number as never_learned"
        )
    scored = np.flatnonzero(~np.isnan(values))
    hardest = scored[np.argsort(hardness[scored], kind="stable")]
    remaining = np.sort(hardest[int(cutoff_fraction * len(values)) :])
    budget = int(keep_fraction * len(values)) - (len(values) - len(scored))
    if not 0 <= budget <= len(remaining):
        raise ValueError(
            f"keep_fraction={keep_fraction} asks for {budget} samples beside the {len(values) - len(scored)} without "
            f"a score, but {len(remaining)} remain after cutoff_fraction={cutoff_fraction}; change one of them"
        )
    strata = _strata(values[remaining], n_strata)
    shares = _stratum_budgets(np.bincount(strata, minlength=n_strata), budget, generator)
    shuffled = torch.randperm(len(remaining), generator=generator).numpy()
    drawn = shuffled[_rank_in_group(strata[shuffled]) < shares[strata[shuffled]]]
    return _without(np.setdiff1d(scored, remaining[drawn]), len(values), targets)


def moderate(features: Values, targets: Values, *, keep_fraction: float) -> Selection:
    """Moderate coreset [4]: keeps the samples whose distance to the center of their class is in the middle.

    All samples are sorted by :func:`class_median_distance` together, and the middle ``keep_fraction`` stays. Classes
    are not balanced.

    Args:
        features: array of shape ``(N, D)``, e.g. the inputs of the last layer of a trained model.
        targets: class labels of shape ``(N,)``.
        keep_fraction: in (0, 1].

    Raises:
        ValueError: if a shape is wrong or ``keep_fraction`` out of range.
        TypeError: if an array is of the wrong type.
    """
    if not 0 < keep_fraction <= 1:
        raise ValueError(f"keep_fraction must be in (0, 1], got {keep_fraction}")
    order = removal_order(class_median_distance(features, targets), remove="lowest")
    low, high = (round(len(order) * (0.5 + side * keep_fraction / 2)) for side in (-1, 1))
    return _without(np.concatenate((order[:low], order[high:])), len(order), targets)


def class_median_distance(features: Values, targets: Values) -> NDArray[np.float64]:
    """The Euclidean distance of each sample to the coordinate-wise median of its class [4].

    Args:
        features: array of shape ``(N, D)``, finite.
        targets: class labels of shape ``(N,)``.

    Returns:
        Float64 array of shape ``(N,)``.

    Raises:
        ValueError: if a shape is wrong, or a feature is not finite.
        TypeError: if the labels are not integers.
    """
    points = as_array(features)
    if points.ndim != 2:
        raise ValueError(f"features must have shape (N, D), got shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("features must be finite, got NaN or inf; look for a diverged model")
    labels = as_labels(targets, len(points))
    distances = np.empty(len(points))
    for label in np.unique(labels):
        own = points[labels == label].astype(np.float64)
        distances[labels == label] = np.linalg.norm(own - np.median(own, axis=0), axis=1)
    return distances


def random_sets(
    n_total: int, *, remove_fraction: float, seed: int, set_size: int = 1, targets: Values | None = None
) -> Selection:
    """The random removal of the code of [1], draw for draw: whole sets of neighboring samples, uniformly.

    For random removal with caps or minima, give :func:`~clpack.pruning.random_scores` to :func:`select`.

    Args:
        n_total: the number of samples of the data set.
        remove_fraction: of the sets, in [0, 1); the count is rounded, half to even.
        seed: of Python's generator; the authors' number of the trial.
        set_size: how many consecutive samples make a set; it must divide ``n_total``.
        targets: class labels of shape ``(n_total,)``, for the counts.

    Raises:
        ValueError: if an argument is out of range.
    """
    if set_size < 1 or n_total % set_size:
        raise ValueError(f"set_size must divide n_total={n_total}, got {set_size}")
    n_sets = n_total // set_size
    removed = random.Random(seed).sample(range(n_sets), number_to_remove(n_sets, remove_fraction, None))
    rows = np.array(removed, dtype=np.int64)[:, None] * set_size + np.arange(set_size)
    return _without(rows.ravel(), n_total, targets)


def number_to_remove(n_samples: int, fraction: float | None, count: int | None) -> int:
    """Returns how many of so many samples a fraction or a count removes.

    Raises:
        ValueError: unless one of the two is given, and leaves at least one sample.
    """
    if (fraction is None) == (count is None):
        raise ValueError(f"give either remove_fraction or remove_count, got {fraction} and {count}")
    if fraction is not None and not 0 <= fraction < 1:
        raise ValueError(f"remove_fraction must be in [0, 1), got {fraction}")
    requested = count if fraction is None else round(fraction * n_samples)
    if not isinstance(requested, int | np.integer) or not 0 <= requested < n_samples:
        raise ValueError(f"at least one of {n_samples} samples must be kept, got {requested} to remove; remove fewer")
    return int(requested)


def cap_of_class(class_cap: int | str, count: int, n_classes: int) -> int:
    """Returns how many of each class may be removed, of ``count`` in all.

    Raises:
        ValueError: if ``class_cap`` is neither a number nor ``"balanced"``.
    """
    if class_cap == "balanced":
        return count // n_classes
    if not isinstance(class_cap, int | np.integer) or class_cap < 0:
        raise ValueError(f"class_cap must be a number of samples, 'balanced' or None, got {class_cap!r}")
    return int(class_cap)


def _checked_order(order: Values, n_total: int) -> Ids:
    ids = as_array(order)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        raise TypeError(f"order must hold integer row numbers, shape (M,), got dtype {ids.dtype}, shape {ids.shape}")
    if len(ids) and not 0 <= ids.min() <= ids.max() < n_total:
        raise ValueError(f"order must hold rows from 0 to {n_total - 1}, got {ids.min()} to {ids.max()}")
    if len(np.unique(ids)) < len(ids):
        raise ValueError("order must hold each row at most once, got some twice")
    return ids.astype(np.int64)


def _rank_in_group(groups: NDArray[Any]) -> Ids:
    """Returns, for each position, how many of the same group come before it."""
    by_group = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[by_group] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def _strata(scores: NDArray[np.float64], n_strata: int) -> Ids:
    """Returns the stratum of each score.

    The last edge lies a ten-thousandth of its size above the maximum: at 1.0001 times a positive one, as in [3], whose
    code loses the top sample of negative scores and all samples of constant ones.
    """
    if len(scores) == 0:
        return np.empty(0, dtype=np.int64)
    low, high = scores.min(), scores.max()
    edges = low + np.arange(n_strata) * ((high + 1e-4 * abs(high) - low) / n_strata)
    return np.searchsorted(edges, scores, side="right") - 1


def _stratum_budgets(sizes: Ids, budget: int, generator: torch.Generator | None) -> Ids:
    budgets = np.zeros_like(sizes)
    order = torch.randperm(
        len(sizes), generator=generator
    ).numpy()  # not always the highest scores get what is left over
    for filled, stratum in enumerate(order[np.argsort(sizes[order], kind="stable")]):
        budgets[stratum] = min(sizes[stratum], (budget - budgets.sum()) // (len(sizes) - filled))
    return budgets


def _without(removed: Ids, n_samples: int, targets: Values | None) -> Selection:
    is_removed = np.zeros(n_samples, dtype=bool)
    is_removed[removed] = True
    counts = {}
    if targets is not None:
        classes, index, totals = np.unique(as_labels(targets, n_samples), return_inverse=True, return_counts=True)
        gone = np.bincount(index[is_removed], minlength=len(classes))
        rows = zip(classes.tolist(), (totals - gone).tolist(), gone.tolist(), strict=True)
        counts = {label: ClassCounts(kept, lost) for label, kept, lost in rows}
    return Selection(np.flatnonzero(~is_removed), np.flatnonzero(is_removed), counts)
