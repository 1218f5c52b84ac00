"""What users pass in, arrays or tensors, as checked NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["Values", "as_array", "as_labels", "as_lengths", "as_matrix", "as_scores"]

Values = ArrayLike | Tensor


def as_array(values: Values) -> NDArray[Any]:
    """Returns the values on the host, without a copy if they are there already."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    host = values.detach().cpu()
    return (host.float() if host.dtype == torch.bfloat16 else host).numpy()


def as_matrix(name: str, values: Values) -> NDArray[Any]:
    """Returns the values of a trace, shape ``(T, N)``: row ``t`` holds presentation ``t`` of every sample."""
    array = as_array(values)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (T, N), one row per presentation, got shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}")
    return array


def as_lengths(length: Values | None, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Returns how many of the ``T`` rows of a trace of this shape count for each sample: all of them by default."""
    n_presentations, n_samples = shape
    if length is None:
        return np.full(n_samples, n_presentations)
    array = _integers("length", length, n_samples)
    if (array < 0).any():
        raise ValueError(f"length must not be negative, got {array.min()} for sample {array.argmin()}")
    return np.minimum(array, n_presentations)


def as_labels(targets: Values, n_samples: int) -> NDArray[np.int64]:
    """Returns class labels, one for each sample."""
    return _integers("targets", targets, n_samples)


def as_scores(name: str, scores: Values, n_samples: int | None = None) -> NDArray[np.float64]:
    """Returns one float64 number per sample; NaN is allowed."""
    array = as_array(scores)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}")
    if array.ndim != 1 or n_samples not in (None, len(array)):
        expected = "(N,)" if n_samples is None else f"({n_samples},)"
        raise ValueError(f"{name} must hold one number per sample, shape {expected}, got shape {array.shape}")
    return array.astype(np.float64)


def _integers(name: str, values: Values, n_samples: int) -> NDArray[np.int64]:
    array = as_array(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    if array.shape != (n_samples,):
        raise ValueError(f"{name} must hold one integer per sample, shape ({n_samples},), got shape {array.shape}")
    return array.astype(np.int64, copy=False)
