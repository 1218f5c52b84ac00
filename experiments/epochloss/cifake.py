"""What the tables on SplitCIFAKE have in common: its stream, and a preset that one processor core can compute.

In full they follow the protocol of the paper, with its network, and as many natural as synthetic images. The preset
"short" has a small network, fewer images and a few epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clpack.experiments.config import Component

__all__ = ["CIFAKE_SHORT", "CIFAKE_SMOKE", "CIFAKE_STREAM"]

CIFAKE_STREAM = Component("SplitCIFAKE", {"n_experiences": 5, "images_per_class": 1600, "seed": 0})

CIFAKE_SHORT: Mapping[str, Any] = {
    "seeds": (1, 2),
    "model": "ConvNet",
    "model.width": 16,
    "model.norm": "batch",
    "stream.images_per_class": 500,
    "train_epochs": 8,
    "train_mb_size": 32,
    "strategy.lr": 0.05,
    "strategy.scoring_epochs": 4,
    "strategy.finetune_epochs": 4,
    "strategy.patience": 3,
    "strategy.interval": 1,
}
CIFAKE_SMOKE: Mapping[str, Any] = {"stream.images_per_class": 40}
