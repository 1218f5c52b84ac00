"""What to do while a set is being condensed: pictures as files, and curves and pictures for TensorBoard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from clpack.files import atomic_path

from .condense import Progress
from .condensed_set import CondensedSet

__all__ = ["SnapshotWriter", "TensorBoardWriter", "picture_grid", "save_picture_grid"]


class SummaryWriter(Protocol):
    """The methods of ``torch.utils.tensorboard.SummaryWriter`` that are used here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Adds a point of a curve."""

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """Adds a picture of shape ``(C, H, W)``."""


def picture_grid(condensed: CondensedSet, *, images_per_class: int = 10) -> Tensor:
    """Returns a picture of a set: a row for each class, with its first images.

    Args:
        condensed: the set.
        images_per_class: at most so many in a row.

    Returns:
        Tensor of shape ``(3, H', W')`` on the CPU, pixels in [0, 1].
    """
    from torchvision.utils import make_grid

    pictures, targets = condensed.pictures().cpu(), condensed.targets.cpu()
    rows = [pictures[targets == label][:images_per_class] for label in targets.unique()]
    longest = max(map(len, rows))
    rows = [torch.cat([row, row.new_ones(longest - len(row), *row.shape[1:])]) for row in rows]
    grid: Tensor = make_grid(torch.cat(rows), nrow=longest, padding=1, pad_value=1.0)
    return grid


def save_picture_grid(condensed: CondensedSet, path: str | os.PathLike[str], *, images_per_class: int = 10) -> None:
    """Writes :func:`picture_grid` as a PNG file, atomically."""
    from torchvision.utils import save_image

    with atomic_path(path) as partial:
        save_image(picture_grid(condensed, images_per_class=images_per_class), partial, format="png")


class SnapshotWriter:
    """A callback of :func:`condense` that writes ``iteration_000500.png`` and so on, after the name of the part if any.

    Args:
        folder: where to; created if it is missing.
        every: iterations between two files; there is one after the last iteration in any case.
        images_per_class: at most so many in a row.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 500, images_per_class: int = 10) -> None:
        self.folder = Path(folder)
        self.every = _positive(every)
        self.images_per_class = images_per_class

    def __call__(self, progress: Progress) -> None:
        """Writes a file, if it is time."""
        if _is_due(progress, self.every):
            name = f"iteration_{progress.iteration:06d}.png"
            path = self.folder / "_".join(filter(None, (progress.part, name)))
            save_picture_grid(progress.condensed, path, images_per_class=self.images_per_class)


class TensorBoardWriter:
    """A callback of :func:`condense` that logs the loss, ``condensation/loss``, and pictures, ``condensation/images``.

    Where sets are condensed in parts, the tags are ``condensation/<part>/loss`` and ``condensation/<part>/images``.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``.
        every: iterations between two points; reading the loss waits for the device.
        images_every: iterations between two pictures.
    """

    def __init__(self, writer: SummaryWriter, *, every: int = 10, images_every: int = 500) -> None:
        self.writer = writer
        self.every = _positive(every)
        self.images_every = _positive(images_every)

    def __call__(self, progress: Progress) -> None:
        """Logs what it is time for."""
        tag = "/".join(filter(None, ("condensation", progress.part)))
        if _is_due(progress, self.every):
            self.writer.add_scalar(f"{tag}/loss", float(progress.loss), progress.iteration)
        if _is_due(progress, self.images_every):
            self.writer.add_image(f"{tag}/images", picture_grid(progress.condensed), progress.iteration)


def _positive(every: int) -> int:
    if every < 1:
        raise ValueError(f"iterations between two records must be at least 1, got {every}")
    return every


def _is_due(progress: Progress, every: int) -> bool:
    return progress.iteration % every == 0 or progress.iteration == progress.iterations
