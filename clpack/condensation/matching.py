r"""What condensation matches between real and synthetic images: gradients, and embeddings.

References:
    [1] B. Zhao, K. R. Mopuri, H. Bilen. Dataset Condensation with Gradient Matching. ICLR 2021, arXiv:2006.05929.
    [2] B. Zhao, H. Bilen. Dataset Condensation with Distribution Matching. WACV 2023, arXiv:2110.04181.
        Authors' code of both: github.com/VICO-UoE/DatasetCondensation (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["distribution_distance", "gradient_distance"]

Metric = Literal["ours", "mse", "cos"]

_EPS = 1e-6


def gradient_distance(grads_syn: Sequence[Tensor], grads_real: Sequence[Tensor], *, metric: Metric = "ours") -> Tensor:
    r"""How far the gradients on synthetic images are from those on real ones [1].

    ``"ours"`` compares each output of each layer: with the rows :math:`s_i` and :math:`g_i` of the tensors that have at
    least two dimensions, flattened behind the first one, it is

    .. math::
        \sum_i 1 - \frac{\langle s_i, g_i \rangle}{\|s_i\| \|g_i\| + 10^{-6}}

    Biases and affine weights, with one dimension, do not count. ``"mse"`` and ``"cos"`` take all tensors as one vector:
    the sum of squared differences, and one such term.

    Args:
        grads_syn: a tensor for each parameter, in the order of the network; gradients flow to them.
        grads_real: the same, of the real images.
        metric: as above.

    Returns:
        A scalar. ``"ours"`` lies between 0 and twice the number of rows.

    Raises:
        ValueError: if the numbers or shapes of tensors differ, or there is no such metric.
    """
    shapes = [[tuple(gradient.shape) for gradient in gradients] for gradients in (grads_syn, grads_real)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"gradients must have the same shapes, got {shapes[0]} and {shapes[1]}")
    if metric == "ours":
        pairs = [(s.flatten(1), g.flatten(1)) for s, g in zip(grads_syn, grads_real, strict=True) if s.dim() > 1]
        return torch.stack([_cosine_distance(s, g).sum() for s, g in pairs]).sum()
    synthetic, real = (torch.cat([gradient.flatten() for gradient in each]) for each in (grads_syn, grads_real))
    if metric == "mse":
        return (synthetic - real).square().sum()
    if metric == "cos":
        return _cosine_distance(synthetic, real)
    raise ValueError(f"metric must be one of {', '.join(map(repr, get_args(Metric)))}, got {metric!r}")


def distribution_distance(features_real: Tensor, features_syn: Tensor) -> Tensor:
    r"""How far the mean embeddings of real and synthetic images are apart [2]: :math:`\|\bar f_R - \bar f_S\|^2`.

    Args:
        features_real: embeddings of real images of a class, shape ``(B, D)``; or of several, ``(K, B, D)``.
        features_syn: embeddings of synthetic images, shape ``(M, D)`` or ``(K, M, D)``; gradients flow to them.

    Returns:
        The sum of squares over the embedding: a scalar, or for several classes shape ``(K,)``.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if features_real.dim() < 2 or features_real.shape[:-2] != features_syn.shape[:-2]:
        raise ValueError(
            "embeddings must have shapes (..., B, D) and (..., M, D), got "
            f"{tuple(features_real.shape)} and {tuple(features_syn.shape)}"
        )
    if features_real.shape[-1] != features_syn.shape[-1]:
        raise ValueError(
            f"embeddings must have the same size, got {features_real.shape[-1]} and {features_syn.shape[-1]}"
        )
    return (features_real.mean(-2) - features_syn.mean(-2)).square().sum(-1)


def _cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """Returns the distance along the last dimension."""
    norms: Tensor = x.norm(dim=-1) * y.norm(dim=-1)
    return 1 - (x * y).sum(-1) / (norms + _EPS)
