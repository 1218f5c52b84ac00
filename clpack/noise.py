"""Noise on labels and on pixels, applied once to a data set.

References:
    [1] M. Toneva et al. An Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019,
        arXiv:1812.05159, figures 3 and 11. Authors' code: github.com/mtoneva/example_forgetting (MIT).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LabelNoise", "PixelNoise", "label_noise", "pixel_noise"]

_CHUNK = 4096  # images at a time, to bound the memory for positions and draws


class LabelNoise(NamedTuple):
    """Labels after :func:`label_noise`.

    Attributes:
        targets: int64, shape ``(N,)``.
        changed: int64, shape ``(K,)``, ascending: the rows whose label is another one now.
    """

    targets: Tensor
    changed: Tensor


class PixelNoise(NamedTuple):
    """Images after :func:`pixel_noise`.

    Attributes:
        images: uint8, shape ``(N, C, H, W)``.
        changed: bool, shape ``(N, H, W)``: the positions that noise was added to.
    """

    images: Tensor
    changed: Tensor


def label_noise(targets: Tensor, percent: float, *, num_classes: int, generator: torch.Generator) -> LabelNoise:
    """Gives ``int(percent * N / 100)`` different samples another label, each of the others with equal chance [1].

    Args:
        targets: int64 tensor of shape ``(N,)``, labels in ``0..num_classes - 1``.
        percent: of the samples, in [0, 100]. In [1]: 20.
        num_classes: number of classes, at least 2.
        generator: drawn from; on the device of ``targets``.

    Raises:
        TypeError: if ``targets`` is not an int64 tensor.
        ValueError: if its shape is another, a label does not exist, or an argument is out of range.
    """
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        found = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
        raise TypeError(f"targets must be an int64 tensor, got {found}")
    if targets.dim() != 1:
        raise ValueError(f"targets must have shape (N,), got shape {tuple(targets.shape)}")
    _check_percent(percent)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, so that there is another label to give, got {num_classes}")
    if len(targets) and not (targets.min() >= 0 and targets.max() < num_classes):
        raise ValueError(
            f"targets must be in 0..{num_classes - 1}, got {int(targets.min())} to {int(targets.max())}; "
            "renumber them or give another num_classes"
        )
    count = int(percent * len(targets) / 100)
    device = targets.device
    changed = torch.randperm(len(targets), generator=generator, device=device)[:count].sort().values
    shift = torch.randint(1, num_classes, (count,), generator=generator, device=device)
    noisy = targets.clone()
    noisy[changed] = (targets[changed] + shift) % num_classes
    return LabelNoise(noisy, changed)


def pixel_noise(
    images: Tensor,
    *,
    std: float,
    percent: float = 100.0,
    mean: float = 120.0,
    wrap: bool = False,
    generator: torch.Generator,
) -> PixelNoise:
    """Adds Gaussian noise to one random channel of ``floor(percent * H * W / 100)`` random positions per image [1].

    Fractions of the result are cut off, as storing a number in 8 bits does.

    Args:
        images: uint8 tensor of shape ``(N, C, H, W)``, values 0..255.
        std: standard deviation of the noise, in grey levels, at least 0. In [1]: 0.5, 1, 2 and 10.
        percent: of the positions, in [0, 100]. Default: 100, as in [1].
        mean: of the noise, in grey levels. Default: 120, that of the authors' code.
        wrap: what becomes of results outside of 0..255: False clips them, True takes them modulo 256, as the authors'
            8-bit arithmetic does. Default: False.
        generator: drawn from; on the device of ``images``.

    Raises:
        TypeError: if ``images`` is not a uint8 tensor.
        ValueError: if its shape is another, or an argument is out of range.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a uint8 tensor, got {found}")
    if images.dim() != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got shape {tuple(images.shape)}")
    _check_percent(percent)
    if not 0 <= std < float("inf"):
        raise ValueError(f"std must be a finite number of grey levels, at least 0, got {std}")
    n, channels, height, width = images.shape
    count = int(percent * height * width / 100)
    noisy = images.flatten(1).clone()
    changed = torch.zeros(n, height * width, dtype=torch.bool, device=images.device)
    for values, mask in zip(noisy.split(_CHUNK), changed.split(_CHUNK), strict=True):
        positions = torch.arange(height * width, device=images.device).expand(mask.shape)
        if count < height * width:
            keys = torch.rand(mask.shape, generator=generator, device=images.device)
            positions = keys.topk(count, dim=1).indices
        channel = torch.randint(channels, positions.shape, generator=generator, device=images.device)
        noise = mean + std * torch.randn(positions.shape, generator=generator, device=images.device)
        places = channel * (height * width) + positions
        levels = (values.gather(1, places) + noise).long()
        levels = levels.remainder(256) if wrap else levels.clamp(0, 255)
        values.scatter_(1, places, levels.to(torch.uint8))
        mask.scatter_(1, positions, True)
    return PixelNoise(noisy.view(images.shape), changed.view(n, height, width))


def _check_percent(percent: float) -> None:
    if not 0 <= percent <= 100:
        raise ValueError(f"percent must be in [0, 100], got {percent}")
