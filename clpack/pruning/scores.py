r"""How much a sample matters for training, as pure functions of what was recorded while training.

A *presentation* is one appearance of a sample in a training mini-batch. The functions take arrays or tensors of shape
``(T, N)``: row ``t`` holds presentation ``t`` of each of ``N`` samples, as :class:`clpack.pruning.Trace` records them.
Samples may have been presented less often than others: ``length``, shape ``(N,)``, says how many of the rows count
(default: all ``T``; larger numbers count as ``T``, so ``loss[:5]`` goes with the ``length`` of the whole trace).

All return a float64 array of shape ``(N,)``. NaN means that a sample has no score: it was presented too rarely, or one
of its values is NaN (which warns). Selection keeps such samples.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
    [2] M. Toneva et al. An Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019,
        arXiv:1812.05159. Authors' code: github.com/mtoneva/example_forgetting (MIT).
    [3] Heuristics For Data Efficient Deep Learning: Max Loss Increase & Gradient Loss.
        github.com/tonydrabeck/260D (MIT).
    [4] G. Pleiss et al. Identifying Mislabeled Data using the Area Under the Margin Ranking. NeurIPS 2020,
        arXiv:2001.10528.
    [5] M. Paul, S. Ganguli, G. K. Dziugaite. Deep Learning on a Data Diet. NeurIPS 2021, arXiv:2107.07075.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from clpack.names import unknown_name

from ._arrays import Values, as_array, as_labels, as_lengths, as_matrix, as_scores
from ._running import (
    FirstLearned,
    ForgettingEvents,
    IncreaseKind,
    LossIncrease,
    Mean,
    NeverLearned,
    PresentationsNeeded,
    Running,
    over_presentations,
    warn_undefined,
)
from .caper import caper
from .gradients import gradient_loss, grand

__all__ = [
    "SCORES",
    "Score",
    "aggregate_runs",
    "area_under_margin",
    "el2n",
    "epoch_accuracy",
    "epoch_loss",
    "first_learned",
    "forgetting_events",
    "get_score",
    "max_loss_increase",
    "presentations_needed",
    "random_scores",
]

Scores = NDArray[np.float64]
Aggregate = Literal["mean", "sum", "max", "last"]


def epoch_loss(loss: Values, *, length: Values | None = None, window: int | None = None, interval: int = 1) -> Scores:
    r"""EpochLoss [1]: the mean training loss of each sample, :math:`\frac{1}{|E|} \sum_{e \in E} l_e`.

    High scores are removed first. The authors' code multiplies by 100, which changes no order.

    Args:
        loss: array of shape ``(T, N)``, see the module.
        length: see the module.
        window: use the last so many presentations of each sample (all of them, where there are fewer).
            Default: all, as published.
        interval: use every so manieth of these, starting with the first. Default: each, as published.

    Raises:
        ValueError: if a shape or an option is wrong.
        TypeError: if an array does not hold numbers.
    """
    return _mean("loss", as_matrix("loss", loss), length, window, interval)


def epoch_accuracy(
    correct: Values, *, length: Values | None = None, window: int | None = None, interval: int = 1
) -> Scores:
    """EpochAcc [1]: the share of presentations at which the sample was classified correctly, in [0, 1].

    Low scores are removed first. Ties are many.

    Args:
        correct: boolean array, or one of 0 and 1, of shape ``(T, N)``, see the module.
        length: see the module.
        window: as for :func:`epoch_loss`.
        interval: as for :func:`epoch_loss`.

    Raises:
        ValueError: if a shape, a value or an option is wrong.
        TypeError: if an array does not hold numbers.
    """
    return _mean("correct", _correctness(correct, length), length, window, interval)


def area_under_margin(margin: Values, *, length: Values | None = None) -> Scores:
    r"""AUM [4]: the mean margin :math:`z_y - \max_{k \ne y} z_k` of the outputs.

    Low scores are likely to be mislabeled, high ones easy; the latter are removed first.

    Args:
        margin: array of shape ``(T, N)``, see the module.
        length: see the module.

    Raises:
        ValueError: if a shape is wrong.
        TypeError: if an array does not hold numbers.
    """
    return _mean("margin", as_matrix("margin", margin), length)


def max_loss_increase(loss: Values, *, length: Values | None = None, kind: IncreaseKind = "running_minimum") -> Scores:
    r"""MLI [3]: the largest rise of the loss above its own running minimum.

    .. math:: \max_t \left( l_t - \min_{s \le t} l_s \right) \ge 0

    Low scores are removed first. A sample needs two presentations to have one. Infinite losses are allowed; a rise
    from an infinite loss to an infinite one is 0.

    Args:
        loss: array of shape ``(T, N)``, see the module.
        length: see the module.
        kind: ``"running_minimum"`` as in [3], or ``"consecutive"`` for the largest step between two presentations
            in a row, :math:`\max(0, \max_t (l_t - l_{t-1}))`, which is another score.

    Raises:
        ValueError: if a shape or ``kind`` is wrong.
        TypeError: if an array does not hold numbers.
    """
    losses = as_matrix("loss", loss)
    lengths = as_lengths(length, losses.shape)
    scores = over_presentations(partial(LossIncrease, kind=kind), losses, lengths)
    warn_undefined(scores, lengths >= LossIncrease.needed, "loss", stacklevel=2)
    return scores


def forgetting_events(correct: Values, *, length: Values | None = None, never_learned: NeverLearned = "inf") -> Scores:
    """Forgetting [2]: how often a sample went from correct to wrong between two presentations in a row.

    Low scores are removed first; those with 0 are the *unforgettable* samples.

    Args:
        correct: boolean array, or one of 0 and 1, of shape ``(T, N)``, see the module.
        length: see the module.
        never_learned: the score of samples that never were correct: ``"inf"`` as in the paper,
            ``"npresentations"`` for ``T``, as in the authors' code if training has ``T`` epochs, or any number
            (the authors' default is 200, whatever the length of the training).

    Raises:
        ValueError: if a shape, a value or ``never_learned`` is wrong.
        TypeError: if an array does not hold numbers.
    """
    values = _correctness(correct, length)
    lengths = as_lengths(length, values.shape)
    ForgettingEvents(0, never_learned)  # complains, before "npresentations" is replaced
    limit = len(values) if never_learned == "npresentations" else never_learned
    return over_presentations(partial(ForgettingEvents, never_learned=limit), values, lengths)


def first_learned(correct: Values, *, length: Values | None = None) -> Scores:
    """The 0-based presentation at which a sample was correct for the first time [2]; NaN if it never was.

    Low scores are removed first.

    Args:
        correct: boolean array, or one of 0 and 1, of shape ``(T, N)``, see the module.
        length: see the module.

    Raises:
        ValueError: if a shape or a value is wrong.
        TypeError: if an array does not hold numbers.
    """
    values = _correctness(correct, length)
    return over_presentations(FirstLearned, values, as_lengths(length, values.shape))


def presentations_needed(correct: Values, *, length: Values | None = None) -> Scores:
    """The number of presentations after which a sample stayed correct [2]: 1 + the last wrong one, 0 if none was.

    Low scores are removed first.

    Args:
        correct: boolean array, or one of 0 and 1, of shape ``(T, N)``, see the module.
        length: see the module.

    Raises:
        ValueError: if a shape or a value is wrong.
        TypeError: if an array does not hold numbers.
    """
    values = _correctness(correct, length)
    return over_presentations(PresentationsNeeded, values, as_lengths(length, values.shape))


def el2n(probabilities: Values, targets: Values) -> Scores:
    r"""EL2N [5]: the norm of the error vector, :math:`\| p - \mathrm{onehot}(y) \|_2`, in [0, :math:`\sqrt 2`].

    Low scores are removed first.

    Args:
        probabilities: softmax outputs of shape ``(N, C)``, or ``(R, N, C)`` to average the norms over ``R`` runs, as
            in [5], or over epochs.
        targets: integer labels of shape ``(N,)``, each in ``[0, C)``.

    Raises:
        ValueError: if a shape is wrong, a label is out of range, or the rows are no probabilities.
        TypeError: if an array does not hold numbers.
    """
    runs = as_array(probabilities)
    if runs.ndim not in (2, 3):
        raise ValueError(f"probabilities must have shape (N, C) or (R, N, C), got shape {runs.shape}")
    runs = runs.reshape(-1, *runs.shape[-2:])
    n_runs, n_samples, n_classes = runs.shape
    labels = as_labels(targets, n_samples)
    if n_runs == 0:
        raise ValueError("probabilities holds no run, expected at least one")
    if n_samples and not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(
            f"targets must be labels from 0 to {n_classes - 1}, as probabilities has {n_classes} columns, "
            f"got {labels.min()} to {labels.max()}"
        )
    total = np.zeros(n_samples)
    for run in runs:
        errors = run.astype(np.float64)
        if (errors < 0).any() or (np.abs(errors.sum(axis=1) - 1) > 1e-2).any():
            raise ValueError("probabilities must be non-negative rows that sum to 1, got others; apply softmax first")
        errors[np.arange(n_samples), labels] -= 1
        total += np.linalg.norm(errors, axis=1)
    scores: Scores = total / n_runs
    return scores


def random_scores(n: int, *, generator: torch.Generator | None = None) -> Scores:
    """Uniform random scores in [0, 1), the baseline of every other score.

    Args:
        n: the number of samples.
        generator: where to draw from. Default: torch's global generator.

    Raises:
        ValueError: if ``n`` is negative.
    """
    if n < 0:
        raise ValueError(f"n must be a number of samples, got {n}")
    scores: Scores = torch.rand(n, generator=generator, dtype=torch.float64).numpy()
    return scores


def aggregate_runs(scores: Sequence[Values], how: Aggregate = "mean") -> Scores:
    """Combines the scores of the same samples from several training runs.

    Args:
        scores: one array of shape ``(N,)`` for each run. A sample that has no score (NaN) in one of the runs has none.
        how: ``"mean"``; ``"sum"``, as published for forgetting; ``"max"``; or ``"last"`` for that of the last run
            only, as in the code of MLI. :data:`SCORES` has the default of each score.

    Raises:
        ValueError: if there is no run, the lengths differ, or ``how`` is unknown.
        TypeError: if an array does not hold numbers.
    """
    if how not in get_args(Aggregate):
        raise ValueError(f"how must be one of {', '.join(get_args(Aggregate))}, got {how!r}")
    if len(scores) == 0:
        raise ValueError("scores is empty, expected the scores of at least one run")
    runs = [as_scores("each of scores", scores[0])]
    runs += [as_scores("each of scores", run, len(runs[0])) for run in scores[1:]]
    if how == "last":
        return runs[-1]
    combine: dict[str, Callable[..., Scores]] = {"mean": np.mean, "sum": np.sum, "max": np.max}
    return combine[how](runs, axis=0)


@dataclass(frozen=True)
class Score:
    """What is to be known about a score.

    Attributes:
        function: computes it.
        requires: the arguments of ``function`` without default; ``("loss",)``, ``("correct",)`` or ``("margin",)``
            if a trace is all it needs.
        remove: which end is removed by default.
        source: where it was published.
        aggregate: how runs are combined by default, see :func:`aggregate_runs`.
        running: makes its running form, given the number of samples and the options of ``function`` that need no
            trace. None for a score that cannot be kept while training.
    """

    function: Callable[..., Scores]
    requires: tuple[str, ...]
    remove: Literal["highest", "lowest"]
    source: str
    aggregate: Aggregate = "mean"
    running: Callable[..., Running] | None = None


_ANDLE = "EpochLoss, github.com/JoshuaAndle/EpochLoss_CL"
_TONEVA = "Toneva et al., ICLR 2019, arXiv:1812.05159"
_MLI = "Max Loss Increase & Gradient Loss, github.com/tonydrabeck/260D"
_PAUL = "Paul et al., NeurIPS 2021, arXiv:2107.07075"

SCORES: dict[str, Score] = {
    "epoch_loss": Score(epoch_loss, ("loss",), "highest", _ANDLE, running=Mean),
    "epoch_accuracy": Score(epoch_accuracy, ("correct",), "lowest", _ANDLE, running=Mean),
    "mli": Score(max_loss_increase, ("loss",), "lowest", _MLI, running=LossIncrease),
    "forgetting": Score(forgetting_events, ("correct",), "lowest", _TONEVA, "sum", running=ForgettingEvents),
    "first_learned": Score(first_learned, ("correct",), "lowest", _TONEVA, running=FirstLearned),
    "presentations_needed": Score(presentations_needed, ("correct",), "lowest", _TONEVA, running=PresentationsNeeded),
    "aum": Score(
        area_under_margin, ("margin",), "highest", "Pleiss et al., NeurIPS 2020, arXiv:2001.10528", running=Mean
    ),
    "el2n": Score(el2n, ("probabilities", "targets"), "lowest", _PAUL),
    "grand": Score(grand, ("model", "images", "targets"), "lowest", _PAUL),
    "gradient_loss": Score(gradient_loss, ("model", "images", "targets"), "highest", _MLI),
    "caper": Score(caper, ("model", "images"), "highest", _ANDLE),
    "random": Score(random_scores, ("n",), "highest", "baseline"),
}
"""Every score by name."""


def get_score(name: str) -> Score:
    """Returns the entry of :data:`SCORES`.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in SCORES:
        raise ValueError(unknown_name("score", name, SCORES))
    return SCORES[name]


def _mean(
    channel: str, values: NDArray[Any], length: Values | None, window: int | None = None, interval: int = 1
) -> Scores:
    if window is not None and window < 1:
        raise ValueError(f"window must be None or a number of presentations, at least 1, got {window}")
    if interval < 1:
        raise ValueError(f"interval must be a number of presentations, at least 1, got {interval}")
    lengths = as_lengths(length, values.shape)
    scores = over_presentations(Mean, values, lengths, window=window, interval=interval)
    warn_undefined(scores, lengths > 0, channel, stacklevel=3)
    return scores


def _correctness(correct: Values, length: Values | None) -> NDArray[np.bool_]:
    values = as_matrix("correct", correct)
    if values.dtype == np.bool_:
        return values
    counted = np.arange(len(values))[:, None] < as_lengths(length, values.shape)
    wrong = values[counted & (values != 0) & (values != 1)]
    if len(wrong):
        raise ValueError(
            f"correct must hold 0 and 1 only, got {wrong[0]}; if this marks missing presentations, pass length"
        )
    is_correct: NDArray[np.bool_] = values == 1
    return is_correct
