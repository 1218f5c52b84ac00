"""Pictures of the report as SVG text that takes its ink from the page, so that it reads in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .metrics import METRICS

if TYPE_CHECKING:
    from .report import Table

__all__ = [
    "Picture",
    "PictureGroup",
    "accuracy_matrices",
    "confusion_matrices",
    "learning_curves",
    "metric_curves",
    "pictures_of",
    "task_weights",
    "training_curves",
]

_INK = "#010203"  # replaced by currentColor in the SVG
_COLORS = tuple(f"C{index}" for index in range(10))
_DASHES = ("-", "--", ":")
_N_LINES = len(_COLORS) * len(_DASHES)  # that can be told apart
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "clpack",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}


@dataclass(frozen=True)
class Picture:
    """A picture of a table.

    Attributes:
        head: which column, or metric and stream, it is of.
        name: of its file, without the ending.
        svg: the picture.
    """

    head: str
    name: str
    svg: str

    @property
    def file(self) -> str:
        """SVG text that stands alone: on a page it takes the ink of the text, here its own."""
        ink = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6e8eb}}</style>"
        return self.svg.replace(">", f">{ink}", 1) + "\n"


@dataclass(frozen=True)
class PictureGroup:
    """The pictures of a table that show the same thing."""

    title: str
    caption: str
    pictures: tuple[Picture, ...]


def pictures_of(table: Table) -> list[PictureGroup]:
    """Draws all there is to draw of a table, group by group."""
    groups = [
        (
            "Curves",
            "Means of the tables; the band is ± one population standard deviation over the seeds.",
            {
                (f"{METRICS[metric].label}, {stream}", f"{stream}-{metric}"): metric_curves(table, metric, stream)
                for stream in table.curves
                for metric in table.plan["metrics"]
            },
        ),
        *(
            (
                title,
                caption,
                {(column, f"{_slug(column)}-{draw.__name__}"): draw(table, column) for column in table.columns},
            )
            for (title, caption), draw in _BY_COLUMN.items()
        ),
    ]
    table_name = table.plan["name"].replace("/", "-")
    drawn = [
        PictureGroup(
            title,
            caption,
            tuple(Picture(head, f"{table_name}-{name}", svg) for (head, name), svg in pictures.items() if svg),
        )
        for title, caption, pictures in groups
    ]
    return [group for group in drawn if group.pictures]


def learning_curves(table: Table, column: str) -> str | None:
    """Draws the running average accuracy over the experiences, mean and standard deviation band, a line per row.

    Returns:
        SVG text; None if nothing of the column is finished, it has a single experience, or there are more rows than
        lines that can be told apart.
    """
    if len(table.rows) > _N_LINES:
        return None
    curves = {row: _stack(table, row, column, "learning_curve") for row in table.rows}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for index, (row, runs) in enumerate(curves.items()):
            if runs is not None and runs.shape[1] > 1:
                _curve(axes, index, row, np.arange(1, runs.shape[1] + 1), runs.mean(0), runs.std(0))
        if not axes.lines:
            return None
        axes.set_xlabel("experiences trained")
        axes.set_ylabel("running average accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        _legend(figure, axes)
        return _svg(figure, f"Learning curves on {column}")


def metric_curves(table: Table, metric: str, stream: str) -> str | None:
    """Draws a metric against the ``x`` of the columns of a stream, mean and standard deviation band, a line per row.

    A row whose cells are the same in all of these columns is a horizontal line.

    Returns:
        SVG text; None if nothing of the columns is finished, or there are more rows than lines that can be told apart.
    """
    if len(table.rows) > _N_LINES:
        return None
    columns = table.curves[stream]
    xs = np.array([table.plan["x"][column] for column in columns], dtype=float)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for index, row in enumerate(table.rows):
            entries = [table.entry(row, column, metric) for column in columns]
            mean, std = (np.array([getattr(entry, name) for entry in entries], float) for name in ("mean", "std"))
            known = ~np.isnan(mean)
            if known.any():
                marker = "" if table.is_constant(row, columns) else "o"
                _curve(axes, index, row, xs[known], mean[known], std[known], marker)
        if not axes.lines:
            return None
        axes.set_xlabel(table.plan["x_label"])
        axes.set_ylabel(f"{METRICS[metric].label.lower()} ({METRICS[metric].unit})")
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        _legend(figure, axes)
        return _svg(figure, f"{METRICS[metric].label} on {stream}")


def accuracy_matrices(table: Table, column: str) -> str | None:
    """Draws the accuracy matrix of each row, averaged over the seeds, side by side on one color scale.

    Returns:
        SVG text; None if nothing of the column is finished, or it has a single experience.
    """
    stacks = {row: _stack(table, row, column, "accuracy_matrix") for row in table.rows}
    matrices = {row: runs.mean(0) for row, runs in stacks.items() if runs is not None and runs.shape[1] > 1}
    names = {"x": "after training experience", "y": "accuracy on experience", "color": "accuracy (%)"}
    return _matrices(matrices, names, f"Accuracy matrices on {column}") if matrices else None


def confusion_matrices(table: Table, column: str) -> str | None:
    """Draws which class the test samples of each class are taken for at the end, in percent, averaged over the seeds.

    Returns:
        SVG text; None if no cell of the column has recorded it.
    """
    stacks = {row: _stack(table, row, column, "confusion_matrix", scale=1) for row in table.rows}
    matrices = {
        row: (100 * runs / runs.sum(2, keepdims=True)).mean(0) for row, runs in stacks.items() if runs is not None
    }
    names = {"x": "taken for class", "y": "class", "color": "share of the class (%)"}
    return _matrices(matrices, names, f"Confusion matrices on {column}", first=0) if matrices else None


def task_weights(table: Table, column: str) -> str | None:
    """Draws the weight alpha that TAG gave each earlier task in the last epoch of each task, averaged over the seeds.

    Returns:
        SVG text; None if no cell of the column has such a weight, as without TAG or with a single task.
    """
    stacks = {row: _stack(table, row, column, "task_weights", scale=1) for row in table.rows}
    matrices = {row: runs.mean(0).T for row, runs in stacks.items() if runs is not None}
    matrices = {row: matrix for row, matrix in matrices.items() if not np.isnan(matrix).all()}
    if not matrices:
        return None
    names = {"x": "while training task", "y": "earlier task", "color": "weight \N{GREEK SMALL LETTER ALPHA}"}
    top = max(2.0, *(float(np.nanmax(matrix)) for matrix in matrices.values()))
    return _matrices(matrices, names, f"Task weights of TAG on {column}", scale=(0, top), center=1, digits=1)


def _matrices(
    matrices: dict[str, np.ndarray[Any, Any]],
    names: dict[str, str],
    label: str,
    *,
    first: int = 1,
    scale: tuple[float, float] = (0, 100),
    center: float | None = None,
    digits: int = 0,
) -> str:
    """Draws square matrices side by side on one color scale.

    Args:
        matrices: by their titles.
        names: of the axes, ``"x"``, ``"y"`` and ``"color"``.
        label: of the picture.
        first: number of the first row and column.
        scale: the values at the ends of the color scale.
        center: the value in the middle of the color scale, which then has two colors, below and above it. Default:
            None, one scale from end to end.
        digits: behind the point, of the values in the cells.
    """
    width = min(4, len(matrices))
    height = -(-len(matrices) // width)
    norm = Normalize(*scale) if center is None else TwoSlopeNorm(center, *scale)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(0.6 + 2.3 * width, 0.3 + 2.5 * height), layout="constrained")
        grid = figure.subplots(height, width, squeeze=False)
        for axes in grid.flat[len(matrices) :]:
            axes.set_visible(False)
        for axes, (row, matrix) in zip(grid.flat, matrices.items(), strict=False):
            low, high = first - 0.5, first + len(matrix) - 0.5
            extent = (low, high, high, low)
            image = axes.imshow(matrix, norm=norm, cmap="viridis" if center is None else "RdBu_r", extent=extent)
            axes.set_title(row)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            if len(matrix) <= 10:
                _annotate(axes, image, matrix, first, digits)
        figure.supxlabel(names["x"], fontsize=9)
        figure.supylabel(names["y"], fontsize=9)
        bar = figure.colorbar(image, ax=grid, label=names["color"], shrink=0.8, aspect=30, format=f"%.{digits}f")
        bar.outline.set_visible(False)
        if center is not None:
            bar.set_ticks((scale[0], center, scale[1]))
        return _svg(figure, label)


def training_curves(table: Table, column: str) -> str | None:
    """Draws the accuracy on the training samples of each experience, epoch by epoch, a panel per row side by side.

    Returns:
        SVG text; None if no cell of the column has measured it.
    """
    stacks = {row: _stack(table, row, column, "train_accuracy_curve") for row in table.rows}
    curves = {row: runs for row, runs in stacks.items() if runs is not None}
    if not curves:
        return None
    width = min(3, len(curves))
    height = -(-len(curves) // width)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(0.6 + 3.0 * width, 0.5 + 2.3 * height), layout="constrained")
        grid = figure.subplots(height, width, squeeze=False, sharey=True)
        for axes in grid.flat[len(curves) :]:
            axes.set_visible(False)
        for axes, (row, runs) in zip(grid.flat, curves.items(), strict=False):
            n_epochs, n_experiences = runs.shape[1:]
            for index in range(n_experiences):
                own = runs[:, :, index]
                epochs = np.arange(1, n_epochs + 1)
                _curve(axes, index, f"experience {index + 1}", epochs, own.mean(0), own.std(0), marker="")
            for begin in range(1, n_experiences):
                axes.axvline(begin * n_epochs / n_experiences + 0.5, color=_INK, alpha=0.3, linewidth=0.8)
            axes.set_title(row)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        figure.supxlabel("epochs", fontsize=9)
        figure.supylabel("accuracy on training samples (%)", fontsize=9)
        _legend(figure, grid.flat[0])
        return _svg(figure, f"Accuracy on training samples on {column}")


_BY_COLUMN: Mapping[tuple[str, str], Callable[[Table, str], str | None]] = {
    (
        "Learning curves",
        "Mean accuracy on the experiences seen so far; the band is ± one population standard deviation over the seeds.",
    ): learning_curves,
    (
        "Accuracy matrices",
        "Test accuracy on each experience (down) after training each experience (across), mean over the seeds.",
    ): accuracy_matrices,
    (
        "Confusion matrices",
        "Share of the test samples of each class (down) taken for each class (across) at the end, over the seeds.",
    ): confusion_matrices,
    (
        "Task weights of TAG",
        "Weight of each earlier task (down) in the last epoch of each task (across), mean over parameter tensors, "
        "steps and seeds: above one where gradients disagree, below one where they agree.",
    ): task_weights,
    (
        "Accuracy on training samples",
        "After each epoch, without augmentation; the band is ± one population standard deviation over the seeds. "
        "The vertical lines are where the next experience begins.",
    ): training_curves,
}


def _curve(axes: Any, index: int, label: str, x: Any, mean: Any, std: Any, marker: str = "o") -> None:
    """Draws one line with its band, in the color and dashes of the ``index``-th row."""
    color, dashes = _COLORS[index % len(_COLORS)], _DASHES[index // len(_COLORS) % len(_DASHES)]
    axes.plot(x, mean, dashes, color=color, label=label, marker=marker, markersize=3, linewidth=1.6)
    axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)


def _legend(figure: Figure, axes: Any) -> None:
    """Names the lines of some axes beside them, and makes the figure as high as that takes."""
    legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    height = legend.get_window_extent().height / figure.dpi
    margin = legend.borderaxespad * legend.prop.get_size_in_points() / 72
    figure.set_figheight(max(figure.get_figheight(), height + 2 * margin))


def _annotate(axes: Any, image: Any, matrix: np.ndarray[Any, Any], first: int, digits: int) -> None:
    """Writes the values of a matrix into its picture, in black on light colors and in white on dark ones."""
    luminance = image.to_rgba(matrix)[:, :, :3] @ (0.299, 0.587, 0.114)
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if not np.isnan(value):
                text, color = f"{value:.{digits}f}", "black" if luminance[i, j] > 0.5 else "white"
                size = 8 if len(matrix) <= 6 else 6
                axes.text(j + first, i + first, text, ha="center", va="center", color=color, fontsize=size)


def _stack(table: Table, row: str, column: str, name: str, scale: float = 100) -> np.ndarray[Any, Any] | None:
    """Returns ``scale`` times a field of the finished cells, seeds first; None without any.

    It is NaN where it is undefined. The default scale makes percent of fractions.
    """
    cells = [cell.content["result"] for cell in table.at(row, column) if cell.content is not None]
    runs = [result[name] for result in cells if name in result]
    return scale * np.array(runs, dtype=float) if runs else None  # None becomes NaN


def _slug(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")


def _svg(figure: Figure, label: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
