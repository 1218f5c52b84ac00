r"""Continual-learning metrics as pure functions of the accuracy matrix.

The matrix ``a`` has shape ``(T, T)``: entry ``a[i, j]`` is the test accuracy on task ``i`` after training on task
``j``, tasks numbered in the order of training. All functions return the unit they are given (fractions or percent).
Means are unweighted: every task counts alike, whatever the size of its test set. Entries that a metric does not use
may be NaN; one that it does use raises.

References:
    [1] D. Lopez-Paz, M. Ranzato. Gradient Episodic Memory for Continual Learning. NeurIPS 2017 (transfers).
    [2] A. Chaudhry et al. Riemannian Walk for Incremental Learning. ECCV 2018 (forgetting).
    [3] M. Riemer et al. Learning to Learn without Forgetting by Maximizing Transfer. ICLR 2019 (learning accuracy).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "average_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
    "running_average_accuracy",
]

Matrix = NDArray[np.float64]


def average_accuracy(matrix: ArrayLike) -> float:
    r"""Accuracy over all tasks after the last one: :math:`\frac1T \sum_i a_{i,T}`.

    Args:
        matrix: accuracies of shape ``(T, T)``, see the module.

    Raises:
        ValueError: if the matrix is not square, is empty, or lacks an entry that is needed.
    """
    a = _checked(matrix)
    return float(_known(a[:, -1], "after the last task").mean())


def learning_accuracy(matrix: ArrayLike) -> float:
    r"""Accuracy on each task just after it was learned [3]: :math:`\frac1T \sum_i a_{i,i}`.

    Args:
        matrix: accuracies of shape ``(T, T)``, see the module.

    Raises:
        ValueError: as :func:`average_accuracy`.
    """
    return float(_known(np.diagonal(_checked(matrix)), "just after each task").mean())


def forgetting(matrix: ArrayLike, *, reference: Literal["max", "first"] = "max") -> float:
    r"""How much was lost of what was once known, over the tasks before the last one.

    Args:
        matrix: accuracies of shape ``(T, T)``, see the module.
        reference: ``"max"``: :math:`\frac1{T-1} \sum_{i<T} (\max_{i \le j \le T} a_{i,j} - a_{i,T})`, never negative
            (TAG's definition, close to [2], where the maximum leaves out the last task); ``"first"``: the accuracy
            just after the task, :math:`a_{i,i} - a_{i,T}`, as Avalanche's forgetting, the negative of
            :func:`backward_transfer`.

    Returns:
        The mean loss; 0 with a single task.

    Raises:
        ValueError: as :func:`average_accuracy`, or if ``reference`` is unknown.
    """
    if reference not in ("max", "first"):
        raise ValueError(f"reference must be 'max' or 'first', got {reference!r}")
    if reference == "first":
        return 0.0 - backward_transfer(matrix)
    a = _checked(matrix)
    if len(a) == 1:
        return 0.0
    upper = np.triu(np.ones(a.shape, dtype=bool))
    best = np.where(upper, _known(np.where(upper, a, 0.0), "from each task on"), -np.inf).max(axis=1)
    return float((best - a[:, -1])[:-1].mean())


def backward_transfer(matrix: ArrayLike) -> float:
    r"""What later tasks did to the earlier ones [1]: :math:`\frac1{T-1} \sum_{i<T} (a_{i,T} - a_{i,i})`.

    Args:
        matrix: accuracies of shape ``(T, T)``, see the module.

    Returns:
        The mean change, negative where there is forgetting; 0 with a single task.

    Raises:
        ValueError: as :func:`average_accuracy`.
    """
    a = _checked(matrix)
    if len(a) == 1:
        return 0.0
    final, learned = _known(a[:, -1], "after the last task"), _known(np.diagonal(a), "just after each task")
    return float((final - learned)[:-1].mean())


def forward_transfer(matrix: ArrayLike, baseline: Sequence[float] | ArrayLike) -> float:
    r"""What earlier tasks did for those not yet seen [1]: :math:`\frac1{T-1} \sum_{i>1} (a_{i,i-1} - b_i)`.

    Args:
        matrix: accuracies of shape ``(T, T)``, see the module; the entries just below the diagonal are used.
        baseline: accuracy ``b`` of the untrained model on every task, shape ``(T,)``.

    Returns:
        The mean gain; 0 with a single task.

    Raises:
        ValueError: as :func:`average_accuracy`, or if ``baseline`` has another length.
    """
    a = _checked(matrix)
    b = np.asarray(baseline, dtype=np.float64)
    if b.shape != (len(a),):
        raise ValueError(f"baseline must hold one accuracy per task, shape ({len(a)},), got shape {b.shape}")
    if len(a) == 1:
        return 0.0
    before = _known(np.diagonal(a, offset=-1), "just before each task")
    return float((before - _known(b[1:], "before any training")).mean())


def running_average_accuracy(matrix: ArrayLike) -> Matrix:
    r"""The learning curve: accuracy over the tasks seen so far, :math:`r_j = \frac1j \sum_{i \le j} a_{i,j}`.

    Args:
        matrix: accuracies of shape ``(T, T)``, see the module.

    Returns:
        A float64 array of shape ``(T,)``; its last entry is the :func:`average_accuracy`.

    Raises:
        ValueError: as :func:`average_accuracy`.
    """
    a = _checked(matrix)
    seen = np.triu(np.ones(a.shape, dtype=bool))
    sums: Matrix = _known(np.where(seen, a, 0.0), "from each task on").sum(axis=0)
    return sums / np.arange(1, len(a) + 1)


def _checked(matrix: ArrayLike) -> Matrix:
    a = np.asarray(matrix, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not a.size:
        raise ValueError(f"matrix must have shape (T, T), one row and one column per task, got shape {a.shape}")
    return a


def _known(entries: Matrix, which: str) -> Matrix:
    if np.isnan(entries).any():
        raise ValueError(f"an accuracy {which} is missing (NaN): evaluate all tasks at those times")
    return entries
