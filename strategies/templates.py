"""What our strategy templates add to Avalanche's."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate

__all__ = ["AutocastTemplate"]


class AutocastTemplate(SupervisedTemplate):
    """Avalanche's supervised template with mixed precision.

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
