"""Data held in memory as tensors, and transforms that work on one image and on a whole batch alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["BatchTransform", "PixelPermutation", "TensorImages"]


class TensorImages(Dataset[tuple[Tensor, int]]):
    """Images and their labels, held in memory.

    The ``images`` tensor and the ``targets`` list are what Avalanche looks for and what the batch-gathering
    loader of :mod:`clpack.strategies` reads without touching single samples.

    Args:
        images: tensor of shape ``(N, ...)``, any dtype; row ``i`` is sample ``i``.
        targets: ``N`` integer labels, a tensor, an array or a sequence.

    Raises:
        ValueError: if the lengths differ.
        TypeError: if ``images`` is not a tensor or ``targets`` is not of an integer type.
    """

    def __init__(self, images: Tensor, targets: Tensor | Sequence[int]) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a tensor of shape (N, ...), got {type(images).__name__}")
        labels = torch.as_tensor(targets)
        if labels.is_floating_point() and len(labels):
            raise TypeError(f"targets must be integer class labels, got dtype {labels.dtype}; convert with .long()")
        if len(images) != len(labels):
            raise ValueError(f"images and targets must have the same length, got {len(images)} and {len(labels)}")
        self.images = images
        self.targets: list[int] = labels.long().tolist()  # Avalanche collates Python integers only

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


class BatchTransform(ABC):
    """A deterministic transform of images ``(..., C, H, W)``: applied to a batch it equals itself on each image.

    Subclass it and write ``__call__(self, images)`` to let a transform of your own run once per batch in the
    batch-gathering loader instead of once per sample.
    """

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Transforms images of shape ``(..., C, H, W)``."""


class PixelPermutation(BatchTransform):
    """Moves the pixels of every image by one fixed permutation: output pixel ``k`` is input pixel ``p[k]``.

    Args:
        permutation: int64 tensor of shape ``(C * H * W,)``, a permutation of the flattened image.

    Raises:
        ValueError: if it is not a permutation, or (when called) an image does not have as many pixels.
    """

    def __init__(self, permutation: Tensor) -> None:
        if not torch.equal(permutation.sort().values, torch.arange(len(permutation))):
            raise ValueError(f"permutation must hold each of 0..{len(permutation) - 1} once")
        self.permutation = permutation

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.flatten(-3)
        if pixels.shape[-1] != len(self.permutation):
            raise ValueError(
                f"the permutation is over {len(self.permutation)} pixels, "
                f"but images of shape {tuple(images.shape)} have {pixels.shape[-1]}"
            )
        return pixels.index_select(-1, self.permutation).view_as(images)
