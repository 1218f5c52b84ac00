"""What our strategies add to Avalanche's template: mixed precision, and errors where there is nothing to train on."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training import supervised
from avalanche.training.templates import SupervisedTemplate

__all__ = ["Cumulative", "Template", "check_not_empty"]


class Template(SupervisedTemplate):
    """Avalanche's supervised template with mixed precision; without a plugin it is fine-tuning.

    Args:
        autocast: run forward passes and losses in this dtype where torch considers it safe (``torch.autocast``), in
            training and evaluation; ``None`` for full precision. Parameters and optimizer keep their own dtype.
        kwargs: the arguments of Avalanche's template.

    Raises:
        ValueError: if ``autocast`` is neither ``None`` nor ``torch.bfloat16``.
    """

    def __init__(self, *, autocast: torch.dtype | None = None, **kwargs: Any) -> None:
        if autocast not in (None, torch.bfloat16):
            raise ValueError(
                f"autocast must be None or torch.bfloat16, got {autocast}; float16 would need its losses scaled"
            )
        self.autocast = autocast
        super().__init__(**kwargs)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def forward(self) -> Any:
        """The model's output for the current mini-batch."""
        with self._precision():
            return super().forward()

    def criterion(self) -> Any:
        """The loss for the current mini-batch."""
        with self._precision():
            return super().criterion()

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Takes the data of the experience, of which there must be some."""
        check_not_empty(self.experience)
        super().train_dataset_adaptation(**kwargs)

    def make_train_dataloader(self, *args: Any, **kwargs: Any) -> None:
        """Makes the loader of the experience, which must have a mini-batch to train on."""
        super().make_train_dataloader(*args, **kwargs)
        if len(self.dataloader) == 0:
            raise ValueError(
                f"experience {self.experience.current_experience} has {len(self.adapted_dataset)} samples, fewer than "
                f"a mini-batch of {self.train_mb_size}, and drop_last=True drops it; lower train_mb_size"
            )


class Cumulative(Template, supervised.Cumulative):
    """Joint training on all data seen so far: Avalanche's upper bound, on our template."""


def check_not_empty(experience: Any) -> None:
    """Raises ``ValueError`` if an experience has no samples."""
    if len(experience.dataset) == 0:
        raise ValueError(
            f"experience {experience.current_experience} is empty, expected at least one sample; "
            "leave it out of the stream"
        )
