"""Checks of arguments that several algorithms take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_labeled_images"]


def check_labeled_images(
    images: Any,
    targets: Any,
    *,
    expected: str = "a floating-point tensor",
    names: tuple[str, str] = ("images", "targets"),
) -> None:
    """Raises unless there are floating-point images and one class label for each of them.

    Args:
        images: what should be a floating-point tensor of shape ``(N, ...)``.
        targets: what should be an int64 tensor of shape ``(N,)``.
        expected: what the caller needs the images to be, in words.
        names: what the caller's user knows the two as.

    Raises:
        TypeError: if one of them is no tensor, or of another dtype.
        ValueError: if there is not one label per image.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(f"{names[0]} must be {expected}, got {_kind(images)}")
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        raise TypeError(f"{names[1]} must be an int64 tensor of class labels, got {_kind(targets)}")
    if targets.shape != images.shape[:1]:
        raise ValueError(
            f"{names[1]} must hold one label per image, shape {tuple(images.shape[:1])}, got {tuple(targets.shape)}"
        )


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
