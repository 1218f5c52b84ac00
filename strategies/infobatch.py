"""Pruning anew in every epoch, in any strategy; for where to put the plugin see :mod:`clpack.strategies.pruning`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from torch import nn

from clpack.pruning import InfoBatch

from ._rows import check_ids, keeping, num_rows, rows_in_batch
from .data import attach_sample_ids, encode_sample_ids
from .loader import inner_loader, narrowed_loader, replace_inner_loader
from .pruning import PruningPlugin

__all__ = ["InfoBatchPlugin"]


class InfoBatchPlugin(SupervisedPlugin):
    r"""InfoBatch: every epoch skips a random part of the samples with low loss, and weighs up the rest of them.

    See :class:`clpack.pruning.InfoBatch` for the method and its deviations from the authors' code. The weights are
    applied to the loss of the strategy, which must be a ``CrossEntropyLoss`` without class weights; replayed samples
    have weight 1. An experience must have one task label, since Avalanche oversamples the smaller of several. An epoch
    has fewer iterations where samples are skipped: a scheduler that steps with every iteration has to be told.

    Args:
        prune_probability: which share of the samples below the mean loss is skipped, in [0, 0.9].
        delta: which share of the epochs may prune, in [0, 1].
        weight: ``"exact"`` or ``"nominal"``.
        seed: of the run.

    Attributes:
        presentations: how many samples of each experience the epochs so far were made of, and how many there were
            without pruning: ``{experience: (shown, full)}``.

    Raises:
        ValueError: if an argument is out of range.

    References:
        [1] Z. Qin et al. InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning. ICLR 2024,
            arXiv:2303.04947.
    """

    def __init__(
        self,
        *,
        prune_probability: float = 0.5,
        delta: float = 0.875,
        weight: Literal["exact", "nominal"] = "exact",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.prune_probability = prune_probability
        self.delta = delta
        self.weight = weight
        self.seed = seed
        self.presentations: dict[int, tuple[int, int]] = {}
        self._pruning = self._infobatch(1, 1, 0, "cpu")
        self._epoch = 0
        self._kept = torch.empty(0, dtype=torch.int64)
        self._weights = torch.ones(1)  # by row; the last is that of all other samples
        self._loader: Any = None
        self._criterion = nn.CrossEntropyLoss(reduction="none")

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Checks what goes together."""
        if sum(isinstance(plugin, InfoBatchPlugin | PruningPlugin) for plugin in strategy.plugins) > 1:
            raise ValueError("the strategy has several pruning plugins, of which InfoBatchPlugin must be the only one")
        criterion = strategy._criterion
        plain = type(criterion) is nn.CrossEntropyLoss and criterion.weight is None and criterion.reduction == "mean"
        if not plain:
            raise ValueError(
                f"the criterion must be a CrossEntropyLoss without class weights, whose mean InfoBatch can weigh, "
                f"got {criterion!r}"
            )
        options = {"ignore_index": criterion.ignore_index, "label_smoothing": criterion.label_smoothing}
        self._criterion = nn.CrossEntropyLoss(reduction="none", **options)

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Attaches sample ids."""
        attach_sample_ids(strategy)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Forgets the losses of the last experience."""
        check_ids(strategy)
        if len(labels := set(getattr(strategy.experience, "task_labels", [0]))) > 1:
            raise ValueError(f"an experience must have one task label, got {sorted(labels)}; split it into several")
        current, num_samples = strategy.experience.current_experience, num_rows(strategy)
        self._pruning = self._infobatch(num_samples, strategy.train_epochs, current, strategy.device)
        self._epoch, self._loader = 0, None
        self.presentations[current] = (0, 0)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Chooses the samples of the epoch."""
        if self._loader is None:
            self._loader = inner_loader(strategy)
        if self._epoch >= self._pruning.num_epochs:
            raise ValueError(
                f"the experience goes on after its {self._pruning.num_epochs} epochs; set train_epochs before training"
            )
        current = strategy.experience.current_experience
        self._kept, weights = self._pruning.begin_epoch(self._epoch)
        by_row = torch.ones(self._pruning.num_samples + 1)
        by_row[self._kept] = weights
        self._weights = by_row.to(strategy.device)
        self._epoch += 1
        shown, full = self.presentations[current]
        self.presentations[current] = (shown + len(self._kept), full + self._pruning.num_samples)
        self._narrow(strategy)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Notes the losses, and adds to the loss of the strategy what the weights make of it."""
        own = rows_in_batch(strategy, strategy.experience.current_experience)
        losses = self._criterion(strategy.mb_output.float(), strategy.mb_y)
        self._pruning.update(own, losses)
        strategy.loss = strategy.loss + ((self._weights[own] - 1) * losses).mean()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Lets the loader go."""
        self._loader = None

    def on_resume(self, strategy: Any) -> None:
        """Narrows the data again, after a checkpoint inside an experience was loaded."""
        self._narrow(strategy)

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns how far the work is; the arguments are those of the plugin built anew."""
        return {
            "presentations": self.presentations,
            "pruning": self._pruning,
            "epoch": self._epoch,
            "kept": self._kept,
            "weights": self._weights,
        }

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.presentations, self._pruning = state["presentations"], state["pruning"]
        self._epoch, self._kept, self._weights = state["epoch"], state["kept"], state["weights"]

    def _infobatch(self, num_samples: int, num_epochs: int, experience: int, device: torch.device | str) -> InfoBatch:
        return InfoBatch(
            num_samples,
            num_epochs,
            prune_probability=self.prune_probability,
            delta=self.delta,
            weight=self.weight,
            seed=self.seed + experience,
            device=device,
        )

    def _narrow(self, strategy: Any) -> None:
        current = strategy.experience.current_experience
        narrow = keeping(current, encode_sample_ids(current, self._kept))
        replace_inner_loader(strategy, narrowed_loader(self._loader, len(strategy.adapted_dataset), narrow))
