"""ZCA whitening, which some trajectory-matching settings apply to the data."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ZCA"]


class ZCA:
    r"""Whitening that stays as close as possible to the pixels.

    With the mean :math:`\mu` and the covariance :math:`U \Lambda U^T` of the flattened images, it maps :math:`x` to
    :math:`(x - \mu)\, U (\Lambda + \epsilon)^{-1/2} U^T`. Fit it on training images, and apply it to those and to the
    test images; images are in [0, 1] and not otherwise normalized. It takes ``O(D^2)`` memory for images of ``D``
    numbers.

    Args:
        images: float tensor of shape ``(N, C, H, W)``, N at least 2.
        eps: added to the variances. Trajectory matching (arXiv:2203.11932) uses 0.1.

    Raises:
        ValueError: if there are not enough images, or ``eps`` is not positive.
    """

    def __init__(self, images: Tensor, *, eps: float = 0.1) -> None:
        if images.dim() != 4 or len(images) < 2:
            raise ValueError(f"images must have shape (N, C, H, W) with N of at least 2, got {tuple(images.shape)}")
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}")
        rows = images.flatten(1)
        self.mean = rows.mean(0)
        centered = rows - self.mean
        variances, directions = torch.linalg.eigh(centered.T @ centered / (len(rows) - 1))
        root = (variances.clamp(min=0) + eps).sqrt()
        self.matrix = (directions / root) @ directions.T
        self.inverse_matrix = (directions * root) @ directions.T

    def __call__(self, images: Tensor) -> Tensor:
        """Whitens images of shape ``(B, C, H, W)``."""
        white: Tensor = (images.flatten(1) - self.mean) @ self.matrix
        return white.view_as(images)

    def inverse(self, images: Tensor) -> Tensor:
        """Maps whitened images of shape ``(B, C, H, W)`` back."""
        rows: Tensor = images.flatten(1) @ self.inverse_matrix + self.mean
        return rows.view_as(images)
