"""A check that attacks and corruptions share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_given"]


def check_given(name: str, value: Any, shape: torch.Size, expected: str) -> None:
    """Raises unless what is given in place of random draws is a tensor of the right shape.

    Args:
        name: of the argument.
        value: what was given.
        shape: what it should have.
        expected: that shape in words.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if it has another shape.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor with {expected}, {tuple(shape)}, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} must have {expected}, {tuple(shape)}, got {tuple(value.shape)}")
