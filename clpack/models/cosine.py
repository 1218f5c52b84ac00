r"""Classifiers by the cosine between features and one row of weights per class, and how they grow.

References:
    [1] S. Hou et al. Learning a Unified Classifier Incrementally via Rebalancing (LUCIR). CVPR 2019.
        Authors' code: github.com/hshustc/CVPR19_Incremental_Learning (MIT).
    [2] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CosineLinear", "SplitCosineLinear", "imprinted_weights"]

_EPS = 1e-12  # the smallest norm that is divided by


class _Rows(nn.Module):
    """One row of weights per class."""

    def __init__(self, in_features: int, out_features: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(_new_rows(in_features, out_features, generator))


class _CosineHead(nn.Module, ABC):
    """What the heads have in common: a scale for the cosines of their rows."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.sigma = nn.Parameter(torch.ones(1))

    @abstractmethod
    def rows(self) -> Tensor:
        """The weights of all classes, ``(out_features, in_features)``."""

    def scores(self, features: Tensor) -> Tensor:
        """Maps features ``(B, in_features)`` to cosines ``(B, out_features)``, in [-1, 1]."""
        return F.linear(F.normalize(features, eps=_EPS), F.normalize(self.rows(), eps=_EPS))

    def forward(self, features: Tensor) -> Tensor:
        """Maps features ``(B, in_features)`` to logits ``(B, out_features)``, the scaled cosines."""
        return self.sigma * self.scores(features)

    def grown(
        self, num_new: int, *, freeze_old: bool = True, generator: torch.Generator | None = None
    ) -> SplitCosineLinear:
        """Returns a head with ``num_new`` more classes, which continues this one; this one stays as it is.

        Args:
            num_new: number of new classes.
            freeze_old: whether the rows of the present classes no longer train, as in [2] with distillation.
            generator: where new rows are drawn from. Default: torch's global generator. Replace them by
                :func:`imprinted_weights` before training, as [2] does.

        Raises:
            ValueError: if ``num_new`` is not positive.
        """
        head = SplitCosineLinear(self.in_features, self.out_features, num_new, generator=generator)
        head.to(self.sigma)
        with torch.no_grad():
            head.fc1.weight.copy_(self.rows())
            head.sigma.copy_(self.sigma)
        head.fc1.weight.requires_grad_(not freeze_old)
        return head.train(self.training)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class CosineLinear(_CosineHead):
    r"""Logits :math:`\sigma \langle f / \|f\|,\ w_c / \|w_c\| \rangle` with one learned scale and no bias [1].

    A feature vector of zeros has logits of zero. Rows start uniformly in
    :math:`\pm 1 / \sqrt{\mathrm{in\_features}}`, the scale at 1.

    Args:
        in_features: length of the feature vectors.
        out_features: number of classes.

    Attributes:
        weight: the rows, ``(out_features, in_features)``.
        sigma: the scale, ``(1,)``.

    Raises:
        ValueError: if an argument is not positive.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(_new_rows(in_features, out_features, None))

    def rows(self) -> Tensor:
        """The weights of all classes, ``(out_features, in_features)``."""
        return self.weight


class SplitCosineLinear(_CosineHead):
    """A :class:`CosineLinear` in two parts, the rows of old and of new classes, in this order, with one scale [1].

    Args:
        in_features: length of the feature vectors.
        num_old: classes of ``fc1``.
        num_new: classes of ``fc2``.
        generator: where all rows are drawn from. Default: torch's global generator.

    Attributes:
        fc1: its ``weight`` are the old rows.
        fc2: its ``weight`` are the new rows.
        sigma: the scale, ``(1,)``.

    Raises:
        ValueError: if an argument is not positive.
    """

    def __init__(
        self, in_features: int, num_old: int, num_new: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(in_features, num_old + num_new)
        self.fc1 = _Rows(in_features, num_old, generator)
        self.fc2 = _Rows(in_features, num_new, generator)

    def rows(self) -> Tensor:
        """The weights of all classes, ``(out_features, in_features)``."""
        return torch.cat((self.fc1.weight, self.fc2.weight))


def imprinted_weights(features: Tensor, targets: Tensor, classes: Sequence[int], old_weight: Tensor) -> Tensor:
    r"""Rows for new classes from their features [1]: :math:`w_c = \nu\, e_c / \|e_c\|`.

    :math:`e_c` is the mean of the normalized features of class c, :math:`\nu` the mean norm of the old rows.

    Args:
        features: tensor of shape ``(N, D)``, of images of the new classes, from the network in evaluation mode.
        targets: int64 tensor of shape ``(N,)``, their classes.
        classes: the new classes, in the order of the result.
        old_weight: rows of the classes that the head knows, ``(n_old, D)``.

    Returns:
        A tensor of shape ``(len(classes), D)``.

    Raises:
        ValueError: if a shape is wrong, a class has no features, or a target is none of the classes.
    """
    if features.dim() != 2 or targets.shape != features.shape[:1] or old_weight.shape[1:] != features.shape[1:]:
        raise ValueError(
            "features, targets and old_weight must have shapes (N, D), (N,) and (n_old, D), got "
            f"{tuple(features.shape)}, {tuple(targets.shape)} and {tuple(old_weight.shape)}"
        )
    member = targets[:, None] == torch.as_tensor(classes, device=targets.device)
    counts = member.sum(0).tolist()
    if 0 in counts:
        raise ValueError(f"every class needs at least one feature vector, got none of class {classes[counts.index(0)]}")
    if sum(counts) != len(targets):
        raise ValueError(f"targets must be among the classes {list(classes)}, got {targets[~member.any(1)][0].item()}")
    with torch.no_grad():
        sums = member.to(features).T @ F.normalize(features, eps=_EPS)
        norms: Tensor = torch.linalg.vector_norm(old_weight, dim=1)
        return F.normalize(sums, eps=_EPS) * norms.mean()


def _new_rows(in_features: int, out_features: int, generator: torch.Generator | None) -> Tensor:
    if in_features < 1 or out_features < 1:
        raise ValueError(f"features and classes must be positive in number, got {in_features} and {out_features}")
    bound = in_features**-0.5
    return torch.empty(out_features, in_features).uniform_(-bound, bound, generator=generator)
