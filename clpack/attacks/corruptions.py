r"""The corruptions of EpochLoss: noise, blur, saturation and rotation in five severities.

They are those of ImageNet-C [2] as the code of [1] has them; the deviations are noted at each function, and the form of
[2] is offered where it differs in kind. All take images ``(B, C, H, W)``, floating-point pixels in [0, 1], and return
new ones of the same shape, dtype and device; ``severity`` is 1 to 5, and [1] uses 3.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
    [2] D. Hendrycks, T. Dietterich. Benchmarking Neural Network Robustness to Common Corruptions and Perturbations.
        ICLR 2019, arXiv:1903.12261.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clpack.names import unknown_name
from clpack.randomness import generator_for

from ._checks import check_given

__all__ = ["CORRUPTIONS", "corrupt", "gaussian_blur", "gaussian_noise", "impulse_noise", "rotate", "saturate"]

Level = TypeVar("Level")

_NOISE_STD = (0.08, 0.12, 0.18, 0.26, 0.38)
_BLUR_STD = (1.0, 2.0, 3.0, 4.0, 6.0)  # pixels
_SATURATION = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))  # factor and offset
_ANGLE = (0.2, 0.4, 0.6, 0.8, 1.0)  # radians
_IMPULSES = (0.03, 0.06, 0.09, 0.17, 0.27)  # share of the values


def corrupt(
    images: Tensor, name: str, severity: int = 3, *, generator: torch.Generator | None = None, **options: Any
) -> Tensor:
    """Corrupts images by the name of the corruption.

    Args:
        images: shape ``(B, C, H, W)``, pixels in [0, 1].
        name: one of :data:`CORRUPTIONS`.
        severity: 1 to 5.
        generator: where noise, impulses and the signs of rotations are drawn from. Default: one with a fixed seed, so
            every call draws the same; give one of your own where batch follows upon batch.
        options: further arguments of the function of that name in this module: ``channels`` of ``"saturate"``,
            ``center`` of ``"rotate"``.

    Raises:
        ValueError: if there is no such corruption, or a shape or an option is wrong.
        TypeError: if ``images`` is not a floating-point tensor, or there is no such option.
    """
    if name not in _FUNCTIONS:
        raise ValueError(unknown_name("corruption", name, CORRUPTIONS))
    if name in _RANDOM:
        options["generator"] = generator
    return _FUNCTIONS[name](images, severity, **options)


def gaussian_noise(
    images: Tensor, severity: int = 3, *, noise: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Adds normal noise of standard deviation 0.08, 0.12, 0.18, 0.26 or 0.38. As in [1], the result is not clipped.

    Args:
        images: see the module.
        severity: see the module.
        noise: the noise to add, of the shape of ``images``, already scaled. Default: drawn.
        generator: see :func:`corrupt`.
    """
    std = _level(images, severity, _NOISE_STD)
    if noise is None:
        generator = generator_for(0, "gaussian noise", device=images.device) if generator is None else generator
        noise = torch.randn(images.shape, generator=generator, device=generator.device, dtype=images.dtype) * std
    else:
        check_given("noise", noise, images.shape, "the shape of images")
    return images + noise.to(images)


def gaussian_blur(images: Tensor, severity: int = 3) -> Tensor:
    """Blurs by a Gaussian of standard deviation 1, 2, 3, 4 or 6 pixels, cut off at four of them; edges are repeated.

    Args:
        images: see the module.
        severity: see the module.
    """
    std = _level(images, severity, _BLUR_STD)
    radius = int(4 * std + 0.5)
    positions = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float64)
    kernel = (-0.5 * (positions / std).square()).exp()
    kernel = (kernel / kernel.sum()).to(images.dtype)
    maps = F.pad(images.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(maps, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return blurred.view_as(images).clamp(0.0, 1.0)


def saturate(images: Tensor, severity: int = 3, *, channels: Literal["HSV", "S"] = "HSV") -> Tensor:
    """Makes colors paler (severities 1 and 2) or stronger: scales and shifts channels in HSV space.

    A value ``v`` becomes ``clip(a v + b, 0, 1)`` with ``(a, b)`` = (0.3, 0), (0.1, 0), (2, 0), (5, 0.1) or (20, 0.2).

    Args:
        images: see the module; three channels, RGB.
        severity: see the module.
        channels: ``"HSV"`` changes hue, saturation and value alike, as the code of [1] does; ``"S"`` the saturation
            only, as in [2].
    """
    factor, offset = _level(images, severity, _SATURATION)
    if images.shape[1] != 3:
        raise ValueError(f"saturate needs RGB images of shape (B, 3, H, W), got shape {tuple(images.shape)}")
    if channels not in ("HSV", "S"):
        raise ValueError(f"channels must be 'HSV' or 'S', got {channels!r}")
    hsv = _to_hsv(images)
    changed = (hsv * factor + offset).clamp(0.0, 1.0)
    if channels == "S":
        changed = torch.stack((hsv[:, 0], changed[:, 1], hsv[:, 2]), dim=1)
    return _to_rgb(changed).clamp(0.0, 1.0)


def rotate(
    images: Tensor,
    severity: int = 3,
    *,
    center: Literal["authors", "image"] = "authors",
    signs: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rotates each image by 0.2, 0.4, 0.6, 0.8 or 1 radian, to one side or the other; what comes in from outside is 0.

    Args:
        images: see the module.
        severity: see the module.
        center: the point that stays: ``"authors"``, row and column 32 whatever the size of the image, as in the code
            of [1] (half a pixel off the center of a 64-pixel image); or ``"image"``, its center.
        signs: tensor of shape ``(B,)`` of +1 and -1, the sides. Default: drawn.
        generator: see :func:`corrupt`.
    """
    angle = _level(images, severity, _ANGLE)
    if center not in ("authors", "image"):
        raise ValueError(f"center must be 'authors' or 'image', got {center!r}")
    if signs is None:
        generator = generator_for(0, "rotation", device=images.device) if generator is None else generator
        signs = torch.randint(2, images.shape[:1], generator=generator, device=generator.device) * 2 - 1
    else:
        check_given("signs", signs, images.shape[:1], "one value for each image")
    height, width = images.shape[2:]
    fixed_row, fixed_column = (32.0, 32.0) if center == "authors" else ((height - 1) / 2, (width - 1) / 2)
    angles = angle * signs.to(images)[:, None, None]
    rows = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] - fixed_row
    columns = torch.arange(width, device=images.device, dtype=images.dtype) - fixed_column
    from_columns = angles.cos() * columns - angles.sin() * rows + fixed_column
    from_rows = angles.sin() * columns + angles.cos() * rows + fixed_row
    grid = torch.stack((from_columns / max(width - 1, 1), from_rows / max(height - 1, 1)), dim=3) * 2 - 1
    rotated = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return rotated.clamp(0.0, 1.0)


def impulse_noise(images: Tensor, severity: int = 3, *, generator: torch.Generator | None = None) -> Tensor:
    """Sets a share of 0.03, 0.06, 0.09, 0.17 or 0.27 of the values to 0 or 1, each with equal probability.

    Args:
        images: see the module.
        severity: see the module.
        generator: see :func:`corrupt`.
    """
    share = _level(images, severity, _IMPULSES)
    generator = generator_for(0, "impulse noise", device=images.device) if generator is None else generator
    draws = torch.rand(images.shape, generator=generator, device=generator.device).to(images.device)
    return images.masked_fill(draws < share, 1.0).masked_fill_(draws < share / 2, 0.0)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": gaussian_blur,
    "saturate": saturate,
    "rotate": rotate,
    "impulse_noise": impulse_noise,
}
_RANDOM = ("gaussian_noise", "rotate", "impulse_noise")

CORRUPTIONS = tuple(_FUNCTIONS)
"""The names of the corruptions.

[1] tests with all but the last, and can train with each; and with ``spatter``, which is left out here.
"""


def _level(images: Tensor, severity: int, levels: tuple[Level, ...]) -> Level:
    """Returns the strength of a severity, after a look at the images."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor of pixels in [0, 1], got {found}")
    if images.dim() != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got shape {tuple(images.shape)}")
    if isinstance(severity, bool) or not isinstance(severity, Integral) or severity not in range(1, len(levels) + 1):
        raise ValueError(f"severity must be an integer from 1 to {len(levels)}, got {severity!r}")
    return levels[severity - 1]


def _to_hsv(images: Tensor) -> Tensor:
    """Hue, saturation and value in [0, 1], shape ``(B, 3, H, W)``; hue and saturation of a gray are 0."""
    red, green, blue = images.unbind(1)
    value, spread = images.amax(1), images.amax(1) - images.amin(1)
    divisor = torch.where(spread > 0, spread, 1.0)
    hue = torch.where(green == value, 2 + (blue - red) / divisor, (green - blue) / divisor)
    hue = torch.where(blue == value, 4 + (red - green) / divisor, hue)
    hue = torch.where(spread > 0, (hue / 6) % 1, 0.0)
    return torch.stack((hue, spread / torch.where(value > 0, value, 1.0), value), dim=1)


def _to_rgb(images: Tensor) -> Tensor:
    """The inverse of :func:`_to_hsv`: each channel falls from the value as the hue goes away from the channel's own."""
    hue, saturation, value = images.unbind(1)
    sextants = [(start + 6 * hue) % 6 for start in (5, 3, 1)]
    return torch.stack([value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1) for k in sextants], dim=1)
