r"""Synthetic images and how they are stored: as pixels, or as low-rank factors.

Images live in the normalized space of the networks that condensed them, and are unbounded there. Only pictures are
mapped back to pixels in [0, 1].

References:
    [1] E. Yang et al. An Efficient Dataset Condensation Plugin and Its Application to Continual Learning. NeurIPS 2023.
        Authors' code: github.com/EnnengYang/An-Efficient-Dataset-Condensation-Plugin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["LowRankImages", "PixelImages", "SyntheticImages", "equivalent_images_per_class"]

Rounding = Literal["total", "per_image"]


def equivalent_images_per_class(
    images_per_class: int, height: int, width: int, rank: int, *, rounding: Rounding = "total"
) -> int:
    r"""Returns how many images of rank r fit into the memory of so many plain ones of a class [1].

    A plain channel has H W numbers, a factored one r (H + W), so n = floor(ipc H W / (r (H + W))).

    Args:
        images_per_class: plain images of a class, at least 1.
        height: H, pixels.
        width: W, pixels.
        rank: r, at least 1.
        rounding: ``"total"``, as above and in the documentation of [1]; or ``"per_image"``, as in its code,
            ipc floor(H W / (r (H + W))), which is never more.

    Raises:
        ValueError: if an argument is out of range, or not one image fits.
    """
    for name, value in (("images_per_class", images_per_class), ("height", height), ("width", width), ("rank", rank)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if rounding not in ("total", "per_image"):
        raise ValueError(f"rounding must be 'total' or 'per_image', got {rounding!r}")
    plain, factored = height * width, rank * (height + width)
    count = images_per_class * plain // factored if rounding == "total" else images_per_class * (plain // factored)
    if count == 0:
        raise ValueError(
            f"images of {height}x{width} pixels with rank {rank} take {factored} numbers a channel, more than the "
            f"{plain * (images_per_class if rounding == 'total' else 1)} of the budget; lower rank or raise "
            "images_per_class"
        )
    return count


class SyntheticImages(nn.Module, ABC):
    """What :class:`PixelImages` and :class:`LowRankImages` have in common: ``N`` images of shape ``(C, H, W)``.

    Attributes:
        shape: ``(N, C, H, W)``.
    """

    def __init__(self, num_images: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        for name, value in (
            ("num_images", num_images),
            ("channels", channels),
            ("height", height),
            ("width", width),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.shape = (num_images, channels, height, width)

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def images(self, indices: Tensor | slice | None = None) -> Tensor:
        """Decodes images, with a graph to the parameters.

        Args:
            indices: which: an int64 tensor of shape ``(B,)``, or a slice. Default: all.

        Returns:
            Tensor of shape ``(B, C, H, W)``, float32 even where less precise numbers are stored.
        """

    @abstractmethod
    def fill_(self, images: Tensor) -> None:
        """Takes over images of shape ``(N, C, H, W)``, as well as the storage can hold them."""

    def fill_noise_(self, noise: Iterable[Tensor]) -> None:
        """Starts from standard normal noise, a tensor for each parameter."""
        with torch.no_grad():
            for parameter, values in zip(self.parameters(), noise, strict=True):
                parameter.copy_(values)

    @abstractmethod
    def equivalent_images_per_class(self, images_per_class: int, *, rounding: Rounding = "total") -> int:
        """Returns how many images of this kind fit into the memory of ``images_per_class`` plain float32 ones."""

    @property
    def numel(self) -> int:
        """Stored numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def nbytes(self) -> int:
        """Stored bytes: 4 for each number, 2 in half precision."""
        return sum(parameter.nbytes for parameter in self.parameters())

    def _fits(self, images: Tensor) -> Tensor:
        if images.shape != self.shape:
            raise ValueError(f"images must have shape {self.shape}, got {tuple(images.shape)}")
        return images


class PixelImages(SyntheticImages):
    """Images as they are, ``C H W`` numbers each; zeros at first.

    Args:
        num_images: ``N``.
        channels: ``C``.
        height: ``H``, pixels.
        width: ``W``, pixels.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_images: int, channels: int, height: int, width: int) -> None:
        super().__init__(num_images, channels, height, width)
        self.pixels = nn.Parameter(torch.zeros(self.shape))

    def images(self, indices: Tensor | slice | None = None) -> Tensor:
        """See :meth:`SyntheticImages.images`."""
        pixels: Tensor = self.pixels if indices is None else self.pixels[indices]
        return pixels.float()

    def fill_(self, images: Tensor) -> None:
        """See :meth:`SyntheticImages.fill_`; exact."""
        with torch.no_grad():
            self.pixels.copy_(self._fits(images))

    def equivalent_images_per_class(self, images_per_class: int, *, rounding: Rounding = "total") -> int:
        """Returns ``images_per_class``."""
        return images_per_class


class LowRankImages(SyntheticImages):
    r"""Images whose channels are products of two factors, X = A B [1]; zeros at first.

    A has shape ``(N, C, H, r)`` and B ``(N, C, r, W)``; nothing is shared between channels or images, and there is no
    bias, activation or clamp. An image takes ``C r (H + W)`` numbers.

    Args:
        num_images: ``N``.
        channels: ``C``.
        height: ``H``, pixels.
        width: ``W``, pixels.
        rank: ``r``, from 1 to ``min(H, W)``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_images: int, channels: int, height: int, width: int, rank: int) -> None:
        super().__init__(num_images, channels, height, width)
        if not 1 <= rank <= min(height, width):
            raise ValueError(f"rank must be from 1 to the shorter side of the images, {min(height, width)}, got {rank}")
        self.rank = rank
        self.a = nn.Parameter(torch.zeros(num_images, channels, height, rank))
        self.b = nn.Parameter(torch.zeros(num_images, channels, rank, width))

    def images(self, indices: Tensor | slice | None = None) -> Tensor:
        """See :meth:`SyntheticImages.images`; one batched matrix product."""
        a, b = (self.a, self.b) if indices is None else (self.a[indices], self.b[indices])
        return a.float() @ b.float()

    def fill_(self, images: Tensor) -> None:
        """See :meth:`SyntheticImages.fill_`; the closest factors in the mean square, by a truncated SVD.

        With the singular values s of a channel, A = U sqrt(s) and B = sqrt(s) V^T.
        """
        with torch.no_grad():
            left, values, right = torch.linalg.svd(self._fits(images).to(self.a.device).float(), full_matrices=False)
            root = values[..., : self.rank].sqrt()
            self.a.copy_(left[..., : self.rank] * root[..., None, :])
            self.b.copy_(root[..., None] * right[..., : self.rank, :])

    def equivalent_images_per_class(self, images_per_class: int, *, rounding: Rounding = "total") -> int:
        """See :func:`equivalent_images_per_class`."""
        return equivalent_images_per_class(images_per_class, *self.shape[2:], self.rank, rounding=rounding)
