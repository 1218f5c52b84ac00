"""The numbers that tables have, and how they are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """How a number of a finished cell is printed.

    Attributes:
        label: its name in tables.
        unit: the unit it is printed in.
        scale: printed value = ``scale`` times the stored fraction.
        decimals: digits after the point.
        higher_is_better: which end is printed in bold; None if neither is.
        of_matrix: whether the function of this name in :mod:`clpack.metrics` computes it from the accuracy matrix.
            Others are there only in the cells that have them.
    """

    label: str
    unit: str
    scale: float
    decimals: int
    higher_is_better: bool | None
    of_matrix: bool = True


#: The numbers of a finished cell by name. Accuracies are those on the test samples, or, after ``train_``, on the
#: training samples of each experience without augmentation; after ``attacked_``, on test images attacked as the
#: training images are; after ``synthetic_``, on synthetic test images. Of single samples: ``noise_found`` is the share
#: of the changed samples of a noisy stream that were removed, ``unforgettable`` that of the samples never forgotten in
#: training, and ``forgetting_events`` the mean number of times that a sample was. Of replay: what the memory holds
#: at the end, in images, stored numbers, and bytes with the labels; a number of a sample is one byte.
METRICS: Mapping[str, Metric] = {
    "average_accuracy": Metric("Average accuracy", "%", 100, 2, True),
    "forgetting": Metric("Forgetting", "fraction", 1, 3, False),
    "learning_accuracy": Metric("Learning accuracy", "%", 100, 2, True),
    "backward_transfer": Metric("Backward transfer", "fraction", 1, 3, True),
    "train_average_accuracy": Metric("Average accuracy on training samples", "%", 100, 2, True, of_matrix=False),
    "train_forgetting": Metric("Forgetting of training samples", "fraction", 1, 3, False, of_matrix=False),
    "train_learning_accuracy": Metric("Learning accuracy on training samples", "%", 100, 2, True, of_matrix=False),
    "attacked_average_accuracy": Metric("Average accuracy on attacked images", "%", 100, 2, True, of_matrix=False),
    "attacked_learning_accuracy": Metric("Learning accuracy on attacked images", "%", 100, 2, True, of_matrix=False),
    "synthetic_average_accuracy": Metric("Average accuracy on synthetic images", "%", 100, 2, True, of_matrix=False),
    "synthetic_learning_accuracy": Metric("Learning accuracy on synthetic images", "%", 100, 2, True, of_matrix=False),
    "noise_found": Metric("Changed samples removed", "%", 100, 2, True, of_matrix=False),
    "unforgettable": Metric("Unforgettable samples", "%", 100, 2, True, of_matrix=False),
    "forgetting_events": Metric("Forgetting events per sample", "events", 1, 2, False, of_matrix=False),
    "memory_images": Metric("Images in memory", "images", 1, 0, None, of_matrix=False),
    "memory_numbers": Metric("Numbers in memory", "numbers", 1, 0, None, of_matrix=False),
    "memory_bytes": Metric("Size of the memory", "bytes", 1, 0, None, of_matrix=False),
}
