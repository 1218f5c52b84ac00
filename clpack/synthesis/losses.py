"""The losses with which CCSI trains on new images and impressions, class weights, and how samples are drawn.

Scores are the cosines of a head such as :class:`~clpack.models.CosineLinear`: ``head.scores(features)``.

References:
    [1] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
    [2] S. Hou et al. Learning a Unified Classifier Incrementally via Rebalancing (LUCIR). CVPR 2019.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "balanced_class_weights",
    "cosine_cross_entropy",
    "intra_domain_loss",
    "less_forget_loss",
    "less_forget_weight",
    "margin_ranking_loss",
    "sampling_weights",
]


def cosine_cross_entropy(
    scores: Tensor, targets: Tensor, *, sigma: Tensor | float, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of scaled scores, averaged with the weights of the classes [1].

    Args:
        scores: tensor of shape ``(B, C)``, cosines.
        targets: int64 tensor of shape ``(B,)``.
        sigma: the scale of the head.
        class_weights: tensor of shape ``(C,)``, see :func:`balanced_class_weights`. Default: all 1.

    Returns:
        A scalar: the weighted losses, divided by the sum of their weights.
    """
    return F.cross_entropy(sigma * scores, targets, weight=class_weights)


def less_forget_loss(features: Tensor, reference_features: Tensor, *, weight: float = 5.0) -> Tensor:
    """Distillation of features [2]: ``weight`` times the mean of 1 - cos over the batch.

    Args:
        features: tensor of shape ``(B, D)``.
        reference_features: those of the network before the task; no gradient goes to them.
        weight: see :func:`less_forget_weight`.

    Returns:
        A scalar.
    """
    cosines = F.cosine_similarity(features, reference_features.detach(), eps=1e-12)
    return weight * (1.0 - cosines).mean()


def less_forget_weight(num_old: int, classes_per_task: int, *, base: float = 5.0) -> float:
    """The adaptive weight of distillation [2]: ``base`` times sqrt(``num_old`` / ``classes_per_task``).

    Args:
        num_old: classes before the task.
        classes_per_task: classes of a regular task, also where the present one has fewer.
        base: [1] and [2] use 5.

    Raises:
        ValueError: if a number is out of range.
    """
    if num_old < 0 or classes_per_task < 1:
        raise ValueError(
            f"num_old must not be negative and classes_per_task must be positive, got {num_old} and {classes_per_task}"
        )
    return base * math.sqrt(num_old / classes_per_task)


def margin_ranking_loss(
    scores: Tensor, targets: Tensor, num_old: int, *, margin: float = 0.3, num_negatives: int = 1
) -> Tensor:
    r"""Keeps the score of samples of old classes above those of new classes [2].

    .. math::
        L = \operatorname{mean}_{i: y_i < n_{\mathrm{old}}} \operatorname{mean}_{k \le K}
            \max(0,\ m - s_{y_i}(x_i) + s_{h_k}(x_i))

    with :math:`h_1, ..., h_K` the new classes of the highest scores. Every sample of an old class counts, also those
    that are classified rightly; without any the loss is 0.

    Args:
        scores: tensor of shape ``(B, C)``, cosines; the first ``num_old`` columns are the old classes.
        targets: int64 tensor of shape ``(B,)``.
        num_old: number of old classes.
        margin: m. [1] uses 0.3, [2] 0.5.
        num_negatives: K, at most the number of new classes. [1] uses 1, [2] 2.

    Returns:
        A scalar.

    Raises:
        ValueError: if there are fewer than ``num_negatives`` new classes, or no old one.
    """
    if not 0 < num_old < scores.shape[1] or not 1 <= num_negatives <= scores.shape[1] - num_old:
        raise ValueError(
            f"scores of {scores.shape[1]} classes must have at least one old class and num_negatives={num_negatives} "
            f"new ones, got num_old={num_old}"
        )
    own = scores.gather(1, targets[:, None])
    highest_new = scores[:, num_old:].topk(num_negatives, dim=1).values
    is_old = (targets < num_old).to(scores.dtype)
    losses = (margin - own + highest_new).clamp(min=0.0).mean(1)
    return (losses * is_old).sum() / is_old.sum().clamp(min=1.0)


def intra_domain_loss(
    scores: Tensor,
    targets: Tensor,
    unlabeled_scores: Tensor,
    centroids: tuple[Tensor, Tensor] | None = None,
    *,
    rho: float = 0.9,
    temperature: float = 1.0,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    r"""Pulls the mean scores of a class in two sources together, and those of different classes apart [1].

    The rows of S are running means of the scores of each class among the labeled samples, those of T the same for
    unlabeled samples, whose classes are those of their highest scores:
    :math:`S \leftarrow (1 - \rho) S + \rho \hat S`, where a class without samples has a row of zeros in
    :math:`\hat S`. With :math:`R_{ij} = e^{\cos(T_i, S_j) / \tau}` the loss is
    :math:`\log \sum_{ij} R_{ij} - \log \sum_i R_{ii}`.

    Args:
        scores: tensor of shape ``(B, C)``, cosines of the labeled samples.
        targets: int64 tensor of shape ``(B,)``.
        unlabeled_scores: tensor of shape ``(B', C)``; gradients flow to them too.
        centroids: what the call before returned. Default: zeros, which [1] goes back to at the start of every epoch.
        rho: weight of the present batch. [1] uses 0.9 to 0.999.
        temperature: of the exponential. [1] uses 1 or 5.

    Returns:
        The loss, a scalar, and the centroids S and T of shape ``(C, C)``, without gradients, for the next call.

    Raises:
        ValueError: if the scores are not of the same classes.
    """
    num_classes = scores.shape[1]
    if unlabeled_scores.shape[1] != num_classes:
        raise ValueError(
            f"both scores must be of the same classes, got {num_classes} and {unlabeled_scores.shape[1]} columns"
        )
    source = rho * _means_by_class(scores, targets, num_classes)
    target = rho * _means_by_class(unlabeled_scores, unlabeled_scores.argmax(1), num_classes)
    if centroids is not None:
        source = source + (1.0 - rho) * centroids[0]
        target = target + (1.0 - rho) * centroids[1]
    relations = (_unit_rows(target) @ _unit_rows(source).T) / temperature
    loss = relations.flatten().logsumexp(0) - relations.diagonal().logsumexp(0)
    return loss, (source.detach(), target.detach())


def balanced_class_weights(counts: Tensor) -> Tensor:
    """Weights of the cross-entropy: the largest count divided by the count of each class [1].

    Args:
        counts: tensor of shape ``(C,)``, how many real images and impressions of each class are stored.

    Returns:
        Float tensor of shape ``(C,)``, at least 1.

    Raises:
        ValueError: if a class has no samples.
    """
    missing = (counts < 1).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f"every class needs samples to be weighted, got none of {missing}")
    return counts.max() / counts.to(torch.promote_types(counts.dtype, torch.float32))


def sampling_weights(num_real: int, num_synthetic: int, *, synthetic_fraction: float = 0.66) -> tuple[float, int]:
    r"""How to draw samples, with replacement, such that a fraction :math:`r` of them is synthetic [1].

    Args:
        num_real: real images that are stored.
        num_synthetic: impressions that are stored.
        synthetic_fraction: r, in (0, 1). [1] uses 0.66, and 0.5 once.

    Returns:
        The weight :math:`N_{\mathrm{real}}\, r / (N_{\mathrm{syn}} (1 - r))` of an impression, where a real image has
        1, and the draws of an epoch, :math:`\lfloor N_{\mathrm{real}} / (1 - r) \rfloor`.

    Raises:
        ValueError: if a number is out of range.
    """
    if not 0.0 < synthetic_fraction < 1.0:
        raise ValueError(f"synthetic_fraction must be in (0, 1), got {synthetic_fraction}")
    if num_real < 1 or num_synthetic < 1:
        raise ValueError(f"there must be real images and impressions, got {num_real} and {num_synthetic}")
    weight = num_real * synthetic_fraction / (num_synthetic * (1.0 - synthetic_fraction))
    return weight, int(num_real / (1.0 - synthetic_fraction))


def _means_by_class(scores: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    member = F.one_hot(labels, num_classes).to(scores)
    return (member.T @ scores) / member.sum(0).clamp(min=1.0)[:, None]


def _unit_rows(matrix: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1, keepdim=True)
    return matrix / (norms + 1e-10)
