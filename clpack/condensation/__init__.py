"""Dataset condensation: few synthetic images in place of many real ones, as pixels or as low-rank factors.

:func:`condense` makes a :class:`CondensedSet` by one of four methods, :func:`evaluate` trains networks on it. What they
are made of is here too: the two ways to store images, augmentation, and what is matched. Nothing knows of Avalanche.
"""

from clpack.presets import (
    DSA_DIGITS,
    DSA_NATURAL,
    NORMALIZATION,
    published_evaluation,
    published_settings,
)

from .augmentation import augment, dc_augment, draw_augmentation, draw_dc_augmentation
from .callbacks import SnapshotWriter, TensorBoardWriter, picture_grid, save_picture_grid
from .condense import Progress, Settings, condense, gradient_loops
from .condensed_set import CondensedSet
from .evaluate import Evaluation, classification_accuracy, evaluate, train_network
from .images import LowRankImages, PixelImages, SyntheticImages, equivalent_images_per_class
from .matching import distribution_distance, gradient_distance
from .trajectories import ExpertBuffer, train_experts, trajectory_distance
from .whitening import ZCA

__all__ = [
    "DSA_DIGITS",
    "DSA_NATURAL",
    "NORMALIZATION",
    "ZCA",
    "CondensedSet",
    "Evaluation",
    "ExpertBuffer",
    "LowRankImages",
    "PixelImages",
    "Progress",
    "Settings",
    "SnapshotWriter",
    "SyntheticImages",
    "TensorBoardWriter",
    "augment",
    "classification_accuracy",
    "condense",
    "dc_augment",
    "distribution_distance",
    "draw_augmentation",
    "draw_dc_augmentation",
    "equivalent_images_per_class",
    "evaluate",
    "gradient_distance",
    "gradient_loops",
    "picture_grid",
    "published_evaluation",
    "published_settings",
    "save_picture_grid",
    "train_experts",
    "train_network",
    "trajectory_distance",
]
