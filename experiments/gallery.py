"""Pictures of samples: those that a score removes first and last, and impressions of classes beside their samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from clpack.files import atomic_path
from clpack.pruning import removal_order
from clpack.strategies import dataset_field

__all__ = ["impression_gallery", "removal_gallery", "save_gallery"]

_COLUMNS = 8  # images side by side in a block
_GAP = 1  # pixels between images
_WIDTH = 4.0  # of a block, in inches
_STYLE = {"font.family": "sans-serif", "font.size": 8, "axes.titlesize": 8, "figure.titlesize": 10}


def removal_gallery(
    dataset: Any,
    scores: NDArray[Any],
    *,
    remove: Literal["highest", "lowest"],
    title: str = "",
    per_class: int = 16,
    classes: Mapping[int, str] | None = None,
) -> Figure:
    """Draws the samples of each class that are removed first beside those that are removed last.

    Each class is a row of two blocks, both in the order of removal, with the range of their scores. Equal scores go by
    row number, samples without a score are left out, and no sample is in both blocks. Images are those that evaluation
    sees, each channel scaled to the range that it has in all images drawn.

    Args:
        dataset: an ``AvalancheDataset`` of images of shape ``(1, H, W)`` or ``(3, H, W)``, all of one size, e.g.
            ``experience.dataset``.
        scores: shape ``(N,)``, of the samples of ``dataset``; NaN where there is none.
        remove: which end is removed, see :data:`clpack.pruning.SCORES`.
        title: what the figure is called, e.g. the name of the score. Default: nothing.
        per_class: how many images a block has at most.
        classes: the labels of the classes to draw, in this order, and their names. Default: all, by their labels.

    Raises:
        ValueError: if there is not one score for each sample, ``remove`` or ``per_class`` is out of range, no class
            is named or one has no samples, no sample to draw has a score, or images are of another shape.
    """
    targets = dataset_field(dataset, "targets").numpy()
    if np.shape(scores) != targets.shape:
        raise ValueError(
            f"scores must hold one for each of the {len(targets)} samples of dataset, got shape {np.shape(scores)}"
        )
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    present = np.unique(targets).tolist()
    names = {label: str(label) for label in present} if classes is None else dict(classes)
    if not names or not names.keys() <= set(present):
        raise ValueError(f"classes must name some of the classes of dataset, {present}, got {list(names)}")
    order = removal_order(scores, remove=remove)
    blocks = []
    for label in names:
        own = order[targets[order] == label]
        first = own[: min(per_class, (len(own) + 1) // 2)]
        blocks.append((first, own[max(len(first), len(own) - per_class) :]))
    images = _images(dataset.eval(), np.concatenate([rows for pair in blocks for rows in pair]))
    mosaics = [[_mosaic(images, rows, per_class) for rows in pair] for pair in blocks]

    height, width = mosaics[0][0].shape[:2]
    size = (0.2 + 2 * (_WIDTH + 0.2), 0.4 + len(names) * (_WIDTH * height / width + 0.3))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title)
        grid = figure.subplots(len(names), 2, squeeze=False)
        for line, name, pair, pictures in zip(grid, names.values(), blocks, mosaics, strict=True):
            for axes, rows, picture, when in zip(line, pair, pictures, ("first", "last"), strict=True):
                found = f" ({scores[rows[0]]:.3g} to {scores[rows[-1]]:.3g})" if len(rows) else ": none"
                axes.set_title(f"{name}, removed {when}{found}", loc="left")
                axes.imshow(picture, interpolation="nearest")
                axes.set_axis_off()
    return figure


def impression_gallery(
    real: Sequence[NDArray[np.float32]],
    means: Sequence[NDArray[np.float32]],
    impressions: Sequence[NDArray[np.float32]],
    names: Sequence[str],
    *,
    per_class: int = 8,
) -> Figure:
    """Draws samples of each class, their mean, and impressions of the class, a class in a row.

    Each channel is scaled to the range that it has in the samples drawn.

    Args:
        real: samples of each class, shape ``(n, C, H, W)``, of one or three channels.
        means: of each class, shape ``(C, H, W)``.
        impressions: of each class, shape ``(m, C, H, W)``.
        names: of the classes.
        per_class: how many samples and impressions of a class are drawn at most.

    Raises:
        ValueError: if there are not as many of all, or ``per_class`` is out of range.
    """
    if not len(real) == len(means) == len(impressions) == len(names) > 0:
        raise ValueError(
            f"real, means, impressions and names must be of the same classes, got {len(real)}, {len(means)}, "
            f"{len(impressions)} and {len(names)}"
        )
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    shown = np.concatenate([images[:per_class] for images in real])
    low, high = (bound(axis=(0, 2, 3), keepdims=True)[0] for bound in (shown.min, shown.max))
    blocks = {"samples": real, "mean": [mean[None] for mean in means], "impressions": impressions}
    widths = [1 if title == "mean" else per_class for title in blocks]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(0.4 * sum(widths) + 0.6, 0.4 * len(names) + 0.4), layout="constrained")
        grid = figure.subplots(1, len(blocks), width_ratios=widths, squeeze=False)[0]
        for axes, (title, rows), width in zip(grid, blocks.items(), widths, strict=True):
            lines = []
            for images in rows:
                scaled = np.clip((images[:width] - low) / np.where(high > low, high - low, 1), 0, 1)
                pictures = np.broadcast_to(scaled.transpose(0, 2, 3, 1), (*scaled.shape[:1], *scaled.shape[2:], 3))
                lines.append(_mosaic(dict(enumerate(pictures)), np.arange(len(pictures)), width))
            height = len(lines[0]) + _GAP
            axes.imshow(
                np.concatenate([np.pad(line, ((0, _GAP), (0, 0), (0, 0)), constant_values=1) for line in lines])
            )
            axes.set_title(title)
            axes.set_xticks([])
            if axes is grid[0]:
                axes.set_yticks(height * (np.arange(len(names)) + 0.5), names)
            else:
                axes.set_yticks([])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
    return figure


def save_gallery(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, atomically; the same figure gives the same file.

    Args:
        figure: of one of the functions above.
        path: the file; its folder is created if it is missing.
    """
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": None})


def _images(data: Any, rows: NDArray[np.int64]) -> dict[int, NDArray[np.float32]]:
    """Returns images of shape ``(H, W, 3)``, values in [0, 1], by row."""
    if len(rows) == 0:
        raise ValueError("scores is NaN for all samples to draw, expected some that have a score")
    pixels = [np.asarray(data[row][0], dtype=np.float32) for row in rows.tolist()]
    shapes = {image.shape for image in pixels}
    if len(shapes) > 1 or pixels[0].ndim != 3 or len(pixels[0]) not in (1, 3):
        raise ValueError(f"images must be of one shape, (1, H, W) or (3, H, W), got {', '.join(map(str, shapes))}")
    stacked = np.stack(pixels).transpose(0, 2, 3, 1)
    low, high = (bound((0, 1, 2)) for bound in (stacked.min, stacked.max))
    scaled = (stacked - low) / np.where(high > low, high - low, 1)
    return dict(zip(rows.tolist(), np.broadcast_to(scaled, (*scaled.shape[:3], 3)), strict=True))


def _mosaic(images: dict[int, NDArray[np.float32]], rows: NDArray[np.int64], capacity: int) -> NDArray[np.float32]:
    """Lays the images of some rows out on white, with room for ``capacity`` of them."""
    height, width = (side + _GAP for side in next(iter(images.values())).shape[:2])
    columns = min(_COLUMNS, capacity)
    canvas = np.ones((-(-capacity // columns) * height - _GAP, columns * width - _GAP, 3), dtype=np.float32)
    for place, row in enumerate(rows.tolist()):
        top, left = (part * side for part, side in zip(divmod(place, columns), (height, width), strict=True))
        canvas[top : top + height - _GAP, left : left + width - _GAP] = images[row]
    return canvas
