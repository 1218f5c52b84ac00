"""Priors of natural images, for images that are optimized.

References:
    [1] H. Yin et al. Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion. CVPR 2020, arXiv:1912.08795.
        Authors' code: github.com/NVlabs/DeepInversion.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["l2_prior", "total_variation"]


def total_variation(images: Tensor, *, norm: Literal["l2", "l1"] = "l2") -> Tensor:
    r"""Total variation of a batch in four directions, in the two forms of [1].

    With :math:`D_k` the differences between horizontal, vertical and both kinds of diagonal neighbors, ``"l2"`` is
    :math:`\sum_k \|D_k\|_2`, one norm over the whole batch: neither squared nor divided by its size, so that its
    weight beside a mean over images depends on the size of the batch. ``"l1"`` is the sum of the means of
    :math:`|D_k|`.

    Args:
        images: floating-point tensor of shape ``(B, C, H, W)``, at least 2x2 pixels.
        norm: which form.

    Returns:
        A scalar.

    Raises:
        ValueError: if ``norm`` is unknown or ``images`` has another shape.
    """
    if norm not in ("l1", "l2"):
        raise ValueError(f"norm must be 'l2' or 'l1', got {norm!r}")
    if images.dim() != 4 or min(images.shape[2:]) < 2:
        raise ValueError(f"images must have shape (B, C, H, W) with at least 2x2 pixels, got {tuple(images.shape)}")
    differences = (
        images[..., :, :-1] - images[..., :, 1:],
        images[..., :-1, :] - images[..., 1:, :],
        images[..., 1:, :-1] - images[..., :-1, 1:],
        images[..., :-1, :-1] - images[..., 1:, 1:],
    )
    parts = [torch.linalg.vector_norm(d) if norm == "l2" else d.abs().mean() for d in differences]
    return torch.stack(parts).sum()


def l2_prior(images: Tensor) -> Tensor:
    """The mean Euclidean norm of the images [1].

    Args:
        images: floating-point tensor of shape ``(B, ...)``.

    Returns:
        A scalar.
    """
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return norms.mean()
