"""Augmentations of dataset condensation: differentiable Siamese augmentation, and the one of plain DC.

References:
    [1] B. Zhao, H. Bilen. Dataset Condensation with Differentiable Siamese Augmentation (DSA). ICML 2021.
    [2] B. Zhao, K. R. Mopuri, H. Bilen. Dataset Condensation with Gradient Matching (DC). ICLR 2021, arXiv:2006.05929.
        Authors' code of both: github.com/VICO-UoE/DatasetCondensation (MIT).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clpack.names import unknown_name

__all__ = ["augment", "dc_augment", "draw_augmentation", "draw_dc_augmentation"]

Value = float | Tensor
Draws = Mapping[str, Value | Sequence[Value]]

_CROP, _CUTOUT, _SCALE, _ANGLE = 0.125, 0.5, 1.2, 15.0  # shares of the side; factor; degrees
_DC_CROP, _DC_SCALE, _DC_ANGLE, _DC_NOISE = 4, 0.2, 45, 0.001  # pixels; share; degrees; standard deviation


def augment(
    images: Tensor,
    strategy: str,
    *,
    params: Draws | None = None,
    generator: torch.Generator | None = None,
    siamese: bool = True,
) -> Tensor:
    """Differentiable augmentation [1]: one operation of the strategy, chosen uniformly, on the whole batch.

    Siamese means that batches of real and of synthetic images pass through the same operation with the same
    parameters: draw them once with :func:`draw_augmentation` and give them to both calls. Gradients flow to the
    images through all operations. What comes in from outside is 0, the mean color of normalized images.

    ============ =========================== ================================================================
    operation    draws                       effect
    ============ =========================== ================================================================
    brightness   u in [0, 1)                 x + u - 0.5
    saturation   u in [0, 1)                 (x - m) 2u + m, with m the mean over channels at each pixel
    contrast     u in [0, 1)                 (x - m) (u + 0.5) + m, with m the mean of the image
    crop         rows, columns (integers)    moves up and left by at most floor(0.125 side + 0.5) pixels
    cutout       row, column (integers)      zeros a square of floor(0.5 side + 0.5) pixels around that center
    flip         u in [0, 1)                 mirrors left to right if u < 0.5
    scale        u for x, u for y            sampling steps of 1/1.2 + u (1.2 - 1/1.2): above 1 it shrinks
    rotate       u in [0, 1)                 by (u - 0.5) 30 degrees
    ============ =========================== ================================================================

    Args:
        images: floating-point tensor of shape ``(B, C, H, W)``, normalized.
        strategy: names joined by ``_``, of ``color`` (brightness, saturation and contrast, in this order), ``crop``,
            ``cutout``, ``flip``, ``scale`` and ``rotate``; ``"none"`` returns the images.
        params: the operations to apply, in order, with their draws: a number for the whole batch, or a tensor of shape
            ``(B,)``, one for each image; a pair where the table names two. Operations of the table must belong to the
            strategy. Default: drawn by :func:`draw_augmentation`.
        generator: where they are drawn from; on the CPU.
        siamese: whether all images share the drawn parameters. Network training and evaluation in [1] do not.

    Returns:
        A tensor like ``images``.

    Raises:
        ValueError: if the strategy, a shape or a name is wrong, or neither or both of ``params`` and ``generator`` are
            given.
        TypeError: if ``images`` is not a floating-point tensor.
    """
    names = _operations(strategy, _STRATEGIES)
    _check_images(images)
    if (params is None) == (generator is None) and names:
        raise ValueError("give either params, the operations and their draws, or generator, to draw them from")
    if params is None:
        if not names or generator is None:
            return images
        params = draw_augmentation(strategy, images.shape, generator=generator, siamese=siamese)
    known = [operation for name in names for operation in _STRATEGIES[name]]
    for operation, draws in params.items():
        if operation not in known:
            raise ValueError(unknown_name(f"operation of strategy {strategy!r}", operation, known))
        values = draws if isinstance(draws, Sequence) else (draws,)
        images = _FUNCTIONS[operation](images, *(_as_column(value, images) for value in values))
    return images


def draw_augmentation(
    strategy: str, shape: Sequence[int], *, generator: torch.Generator, siamese: bool = True
) -> dict[str, Value | Sequence[Value]]:
    """Chooses an operation of the strategy and draws its parameters: the ``params`` of :func:`augment`.

    Args:
        strategy: see :func:`augment`.
        shape: ``(B, C, H, W)`` of the images.
        generator: on the CPU, so that nothing waits for another device.
        siamese: one number for all images if true, else a tensor of shape ``(B,)`` for each parameter.

    Returns:
        Operations and their draws; empty for ``"none"``.

    Raises:
        ValueError: if the strategy is wrong.
    """
    names = _operations(strategy, _STRATEGIES)
    if not names:
        return {}
    batch, _, height, width = shape
    chosen = names[int(torch.randint(len(names), (), generator=generator))]

    def finish(drawn: Tensor) -> Value:
        return float(drawn) if siamese else drawn

    def uniform() -> Value:
        return finish(torch.rand(() if siamese else (batch,), generator=generator))

    def integer(low: int, high: int) -> Value:
        return finish(torch.randint(low, high + 1, () if siamese else (batch,), generator=generator))

    drawn: dict[str, Value | Sequence[Value]] = {}
    for operation in _STRATEGIES[chosen]:
        if operation == "crop":
            drawn[operation] = tuple(integer(-_share(_CROP, side), _share(_CROP, side)) for side in (height, width))
        elif operation == "cutout":
            drawn[operation] = tuple(integer(0, side - _share(_CUTOUT, side) % 2) for side in (height, width))
        elif operation == "scale":
            drawn[operation] = (uniform(), uniform())
        else:
            drawn[operation] = uniform()
    return drawn


def dc_augment(
    images: Tensor,
    strategy: str,
    *,
    params: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The augmentation with which plain DC trains the networks of an evaluation [2]: one operation for each image.

    * ``crop`` moves the image by -4 to 3 pixels along both axes, onto the channel means of the batch;
    * ``scale`` resizes height and width, to the nearest pixel, by two factors, around the center, onto zeros;
    * ``rotate`` turns it by whole degrees, by cubic splines, onto the mean of the channel means;
    * ``noise`` adds normal noise of standard deviation 0.001.

    It is not differentiable. Values are those of the authors' code, which rotates with ``scipy.ndimage.rotate``.

    Args:
        images: floating-point tensor of shape ``(B, C, H, W)``, normalized.
        strategy: names joined by ``_``, of ``crop``, ``scale``, ``rotate`` and ``noise``; ``"none"`` returns the
            images. [2] uses ``"crop_scale_rotate"`` for MNIST and ``"crop_noise"`` for networks with batch
            normalization.
        params: for each image the position of its operation in the strategy, int64 of shape ``(B,)``, and its two draws
            (see :func:`draw_dc_augmentation`), shape ``(B, 2)``; both on the CPU. Default: drawn.
        generator: where they are drawn from, and the noise; on the CPU.

    Raises:
        ValueError: if the strategy or a shape is wrong, or there is neither ``params`` nor ``generator``.
        TypeError: if ``images`` is not a floating-point tensor.
    """
    names = _operations(strategy, _DC_FUNCTIONS)
    _check_images(images)
    if not names:
        return images
    if params is None:
        if generator is None:
            raise ValueError("give params, the operations and their draws, or generator, to draw them from")
        params = draw_dc_augmentation(strategy, len(images), generator=generator)
    chosen, draws = params
    if chosen.shape != images.shape[:1] or draws.shape != (len(images), 2):
        raise ValueError(
            f"params must have shapes ({len(images)},) and ({len(images)}, 2), got {tuple(chosen.shape)} and "
            f"{tuple(draws.shape)}"
        )
    images = images.detach()
    result, means = images.clone(), images.mean((0, 2, 3))
    for position, name in enumerate(names):
        rows = (chosen == position).nonzero().flatten()
        if not len(rows):
            continue
        on_device = rows.to(images.device, non_blocking=True)
        if name == "noise":
            noise = torch.randn((len(rows), *images.shape[1:]), generator=generator)
            result[on_device] = images[on_device] + _DC_NOISE * noise.to(images)
        else:
            result[on_device] = _DC_FUNCTIONS[name](
                images[on_device], draws[rows].double().to(images.device, non_blocking=True), means
            )
    return result


def draw_dc_augmentation(strategy: str, count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Chooses an operation for each of ``count`` images and draws its parameters: the ``params`` of :func:`dc_augment`.

    The draws are integers in [0, 7], the row and the column of the window in the padded image, for ``crop``; factors in
    [0.8, 1.2) of height and width for ``scale``; degrees in [-45, 44], and a number without use, for ``rotate``.

    Args:
        strategy: see :func:`dc_augment`.
        count: number of images.
        generator: on the CPU.
    """
    names = _operations(strategy, _DC_FUNCTIONS)
    chosen = torch.randint(max(len(names), 1), (count,), generator=generator)
    uniform = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    draws = torch.zeros_like(uniform)
    for position, name in enumerate(names):
        if name == "crop":
            drawn = (uniform * 2 * _DC_CROP).floor()
        elif name == "scale":
            drawn = 1 - _DC_SCALE + uniform * 2 * _DC_SCALE
        else:
            drawn = (uniform * 2 * _DC_ANGLE).floor() - _DC_ANGLE
        draws = torch.where(chosen[:, None] == position, drawn, draws)
    return chosen, draws


# ------------------------------------------------------------------------------------------ Siamese operations


def _brightness(images: Tensor, u: Tensor) -> Tensor:
    return images + (u - 0.5)


def _saturation(images: Tensor, u: Tensor) -> Tensor:
    mean = images.mean(dim=1, keepdim=True)
    return (images - mean) * (2 * u) + mean


def _contrast(images: Tensor, u: Tensor) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (u + 0.5) + mean


def _crop(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    for dim, shift in ((2, rows), (3, columns)):
        side = images.shape[dim]
        source = _positions(images, dim) + shift
        inside = (source >= 0) & (source < side)
        index = source.clamp(0, side - 1).long().expand_as(images)
        images = images.gather(dim, index) * inside
    return images


def _cutout(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    hole = torch.ones((), dtype=torch.bool, device=images.device)
    for dim, center in ((2, row), (3, column)):
        size = _share(_CUTOUT, images.shape[dim])
        first = center - size // 2
        last = images.shape[dim] - 1
        position = _positions(images, dim)
        # As in [1] what lies outside is moved to the border, so at least one row and one column are cut.
        hole = hole & (position >= first.clamp(0, last)) & (position <= (first + size - 1).clamp(0, last))
    return images * ~hole


def _flip(images: Tensor, u: Tensor) -> Tensor:
    return torch.where(u < 0.5, images.flip(3), images)


def _scale(images: Tensor, u_x: Tensor, u_y: Tensor) -> Tensor:
    low, high = 1 / _SCALE, _SCALE
    zero = torch.zeros_like(u_x)
    return _sample(images, [[low + u_x * (high - low), zero, zero], [zero, low + u_y * (high - low), zero]])


def _rotate(images: Tensor, u: Tensor) -> Tensor:
    angle = (u - 0.5) * (2 * _ANGLE * math.pi / 180)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(u)
    return _sample(images, [[cosine, -sine, zero], [sine, cosine, zero]])


def _sample(images: Tensor, matrix: list[list[Tensor]]) -> Tensor:
    """Samples at the affine map of each position, in coordinates of [-1, 1]."""
    theta = torch.stack([torch.stack([entry.flatten() for entry in row], dim=1) for row in matrix], dim=1)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "brightness": _brightness,
    "saturation": _saturation,
    "contrast": _contrast,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
_STRATEGIES: dict[str, tuple[str, ...]] = {
    "color": ("brightness", "saturation", "contrast"),
    **{name: (name,) for name in ("crop", "cutout", "flip", "scale", "rotate")},
}

# ------------------------------------------------------------------------------------------ operations of plain DC


def _dc_crop(images: Tensor, draws: Tensor, means: Tensor) -> Tensor:
    return _look_up(images, _windows(images, draws - _DC_CROP), means)


def _dc_scale(images: Tensor, draws: Tensor, means: Tensor) -> Tensor:
    height, width = images.shape[2:]
    sides = (draws * height).long()  # both are shares of the height in [2]
    canvas = sides.amax(dim=1, keepdim=True).clamp(min=max(height, width))
    window = torch.cat(((canvas - height) // 2, (canvas - width) // 2), dim=1) - (canvas - sides) // 2
    targets = _windows(images, window)
    sources = []
    for axis, (side, position) in enumerate(zip((height, width), targets, strict=True)):
        size = sides[:, axis].view(-1, 1)
        step = side / size.float()  # the nearest pixel in the rounding of torch's interpolation
        source = (position.float() * step).floor().long().clamp(max=side - 1)
        sources.append(torch.where((position >= 0) & (position < size), source, -1))
    return _look_up(images, (sources[0], sources[1]), torch.zeros_like(means))


def _dc_rotate(images: Tensor, draws: Tensor, means: Tensor) -> Tensor:
    height, width = images.shape[2:]
    angle = torch.deg2rad(draws[:, 0])
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    # The canvas of the rotated image, and the window at its center, as scipy.ndimage.rotate and [2] round them.
    canvas_height = (height * cosine.abs() + width * sine.abs() + 0.5).floor()
    canvas_width = (height * sine.abs() + width * cosine.abs() + 0.5).floor()
    row = _positions(images, 2)[0] + ((canvas_height - height) / 2).trunc() - (canvas_height - 1) / 2
    column = _positions(images, 3)[0] + ((canvas_width - width) / 2).trunc() - (canvas_width - 1) / 2
    source_row = cosine * row + sine * column + (height - 1) / 2
    source_column = -sine * row + cosine * column + (width - 1) / 2
    slack = 1e-10  # a turn by 0 degrees must not lose the border to rounding
    inside = (source_row >= -slack) & (source_row <= height - 1 + slack)
    inside = inside & (source_column >= -slack) & (source_column <= width - 1 + slack)
    coefficients = _spline_coefficients(images.double())
    row_taps, column_taps = _taps(source_row, height), _taps(source_column, width)
    result = torch.zeros_like(coefficients)
    flat = coefficients.flatten(2)
    for row_index, row_weight in row_taps:
        for column_index, column_weight in column_taps:
            index = (row_index * width + column_index).flatten(1)[:, None].expand(-1, images.shape[1], -1)
            result += (row_weight * column_weight)[:, None] * flat.gather(2, index).view_as(result)
    return torch.where(inside[:, None], result, means.double().mean()).to(images.dtype)


def _spline_coefficients(images: Tensor) -> Tensor:
    """Solves for the cubic spline, mirrored at the borders, that goes through all pixels."""
    for dim in (2, 3):
        side = images.shape[dim]
        matrix = torch.eye(side, dtype=images.dtype) * 4  # on the CPU: inverting elsewhere would wait for the device
        matrix += torch.diag(matrix.new_ones(side - 1), 1) + torch.diag(matrix.new_ones(side - 1), -1)
        matrix[0, 1] = matrix[-1, -2] = 2.0
        inverse = torch.linalg.inv(matrix / 6).to(images.device, non_blocking=True)
        images = (inverse @ images.transpose(2, dim)).transpose(2, dim)
    return images


def _taps(source: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """The four pixels around each position along one axis, mirrored at the borders, and their spline weights."""
    base = source.floor()
    t = source - base
    weights = ((1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
    taps = []
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        index = (base + offset).long().abs()
        index = torch.where(index >= side, 2 * (side - 1) - index, index).clamp(0, side - 1)
        taps.append((index, weight / 6))
    return taps


def _windows(images: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(B, H)`` and columns ``(B, W)`` of a window of the size of the images, moved by ``offsets`` ``(B, 2)``."""
    offsets = offsets.long()
    rows = torch.arange(images.shape[2], device=images.device) + offsets[:, :1]
    columns = torch.arange(images.shape[3], device=images.device) + offsets[:, 1:]
    return rows, columns


def _look_up(images: Tensor, sources: tuple[Tensor, Tensor], fill: Tensor) -> Tensor:
    """Picks rows and columns of each image; ``fill``, a number for each channel, where they lie outside."""
    rows, columns = sources
    row_inside = (rows >= 0) & (rows < images.shape[2])
    column_inside = (columns >= 0) & (columns < images.shape[3])
    inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]
    image = torch.arange(len(images), device=images.device)[:, None, None]
    row, column = rows.clamp(0, images.shape[2] - 1)[:, :, None], columns.clamp(0, images.shape[3] - 1)[:, None]
    picked = images.permute(0, 2, 3, 1)[image, row, column].permute(0, 3, 1, 2)
    return torch.where(inside, picked, fill[:, None, None])


_DC_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "crop": _dc_crop,
    "scale": _dc_scale,
    "rotate": _dc_rotate,
    "noise": lambda images, draws, means: images,
}

# --------------------------------------------------------------------------------------------------------- shared


def _operations(strategy: str, known: Mapping[str, object]) -> list[str]:
    if strategy.lower() in ("", "none"):
        return []
    names = strategy.split("_")
    for name in names:
        if name not in known:
            raise ValueError(unknown_name(f"operation in augmentation {strategy!r}", name, known))
    return names


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor, normalized, got {found}")
    if images.dim() != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")


def _as_column(value: Value, images: Tensor) -> Tensor:
    """Returns a draw with shape ``(1 or B, 1, 1, 1)`` on the device of the images."""
    if not isinstance(value, Tensor):
        return torch.full((1, 1, 1, 1), float(value), dtype=images.dtype, device=images.device)
    if value.shape not in ((), images.shape[:1]):
        raise ValueError(f"a draw must be one number or one for each of {len(images)} images, got {tuple(value.shape)}")
    return value.to(images, non_blocking=True).view(-1, 1, 1, 1)


def _share(share: float, side: int) -> int:
    return math.floor(share * side + 0.5)


def _positions(images: Tensor, dim: int) -> Tensor:
    """Returns 0, 1, ... along ``dim``, with four dimensions."""
    shape = [1, 1, 1, 1]
    shape[dim] = images.shape[dim]
    return torch.arange(images.shape[dim], device=images.device, dtype=images.dtype).view(shape)
