"""Pruning anew in every epoch.

References:
    [1] Z. Qin et al. InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning. ICLR 2024,
        arXiv:2303.04947. Authors' code: github.com/NUS-HPC-AI-Lab/InfoBatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from clpack.randomness import generator_for

__all__ = ["InfoBatch"]


class InfoBatch:
    r"""InfoBatch [1]: skips a random part of the samples with low loss, and weighs up the rest of them.

    Of the :math:`n` samples whose last loss is below the mean of all, ``int((1 - prune_probability) * n)`` are kept,
    with the loss weight that makes the expected sum of all weighted losses that of the full data. The others are
    always kept, with weight 1. Nothing is pruned in the first epoch, nor in the last ones, nor a sample that has no
    finite loss yet::

        for epoch in range(num_epochs):
            indices, weights = pruning.begin_epoch(epoch)
            ...  # for each mini-batch of these: loss = (weights * losses).mean(), and
            pruning.update(ids, losses)

    Deviations from the authors' code, which resets itself in every batch of a current torch loader, keeps old weights
    when ``delta * num_epochs`` is no integer, and seeds NumPy's global generator: none of these. The draws of an
    epoch depend on ``seed`` and the epoch only. At least one of the samples below the mean is kept.

    Args:
        num_samples: the number of samples.
        num_epochs: the number of epochs of the training.
        prune_probability: which share of the samples below the mean is skipped, in [0, 0.9]. [1] uses 0.5.
        delta: which share of the epochs may prune: epoch ``e``, counted from 0, if
            ``1 <= e <= delta * num_epochs - 1``. [1] uses 0.875.
        weight: of the kept samples below the mean: ``"exact"``, their number before over that after, which is
            unbiased after rounding too, or ``"nominal"``, ``1 / (1 - prune_probability)``, as in the authors' code.
        seed: of the run.
        device: where the losses are kept. That of the training saves a synchronization in every mini-batch.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        *,
        prune_probability: float = 0.5,
        delta: float = 0.875,
        weight: Literal["exact", "nominal"] = "exact",
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_samples < 1 or num_epochs < 1:
            raise ValueError(f"num_samples and num_epochs must be at least 1, got {num_samples} and {num_epochs}")
        if not 0 <= prune_probability <= 0.9:
            raise ValueError(
                f"prune_probability must be in [0, 0.9], got {prune_probability}: a tenth is kept at least, or the "
                "weights would be too large"
            )
        if not 0 <= delta <= 1:
            raise ValueError(f"delta must be in [0, 1], got {delta}")
        if weight not in ("exact", "nominal"):
            raise ValueError(f"weight must be 'exact' or 'nominal', got {weight!r}")
        self.num_samples = num_samples
        self.num_epochs = num_epochs
        self.prune_probability = prune_probability
        self.delta = delta
        self.weight = weight
        self.seed = seed
        self._losses = torch.full((num_samples + 1,), torch.nan, device=device)  # index -1 is the one to ignore

    def begin_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Chooses the samples of an epoch.

        Args:
            epoch: counted from 0. The same epoch, after the same losses, gives the same samples.

        Returns:
            int64 tensor of shape ``(K,)``, the samples in ascending order, to be shuffled by the loader, and float32
            tensor of shape ``(K,)``, their weights; both on the CPU.

        Raises:
            ValueError: if there is no such epoch.
        """
        if not 0 <= epoch < self.num_epochs:
            raise ValueError(f"epoch must be from 0 to {self.num_epochs - 1}, got {epoch}")
        weights = torch.ones(self.num_samples)
        if 1 <= epoch <= self.delta * self.num_epochs - 1:
            losses = self._losses[:-1].cpu()
            below = (losses < losses[losses.isfinite()].mean()).nonzero()[:, 0]
            if len(below):
                n_kept = max(1, int((1 - self.prune_probability) * len(below)))
                shuffled = torch.randperm(len(below), generator=generator_for(self.seed, "InfoBatch", epoch))
                exact = self.weight == "exact"
                weights[below] = len(below) / n_kept if exact else 1 / (1 - self.prune_probability)
                weights[below[shuffled[n_kept:]]] = 0.0
        indices = weights.nonzero()[:, 0]
        return indices, weights[indices]

    def update(self, ids: Tensor, losses: Tensor) -> None:
        """Takes the losses of a mini-batch; nothing waits for the device if it is that of this object.

        Args:
            ids: integer tensor of shape ``(B,)``, samples in ``[0, num_samples)``. Rows with id -1 (replayed,
                synthetic) are ignored.
            losses: floating-point tensor of shape ``(B,)``, without weights.

        Raises:
            ValueError: if the shapes differ, or an id on the CPU is out of range.
        """
        if ids.dim() != 1 or losses.shape != ids.shape:
            raise ValueError(
                f"ids and losses must both have shape (B,), got {tuple(ids.shape)} and {tuple(losses.shape)}"
            )
        if ids.device.type == "cpu" and len(ids) and not -1 <= ids.min() <= ids.max() < self.num_samples:
            raise ValueError(
                f"ids must be from 0 to {self.num_samples - 1}, or -1 to be ignored, got {ids.min()} to {ids.max()}"
            )
        device = self._losses.device
        self._losses[ids.to(device, torch.int64)] = losses.detach().to(device, self._losses.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the last loss of each sample; all else are the arguments."""
        return {"losses": self._losses[:-1].clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a :meth:`state_dict` of an object that was made with the same arguments.

        Raises:
            ValueError: if it is that of another number of samples.
        """
        if state["losses"].shape != (self.num_samples,):
            raise ValueError(
                f"state['losses'] must have shape ({self.num_samples},), got {tuple(state['losses'].shape)}"
            )
        self._losses[:-1] = state["losses"]
