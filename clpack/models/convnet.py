"""The convolutional network of dataset condensation, in all variants of its evaluation.

References:
    [1] B. Zhao, K. R. Mopuri, H. Bilen. Dataset Condensation with Gradient Matching. ICLR 2021, arXiv:2006.05929.
        Authors' code: github.com/VICO-UoE/DatasetCondensation (MIT).
    [2] E. Yang et al. An Efficient Dataset Condensation Plugin and Its Application to Continual Learning. NeurIPS 2023.
        Authors' code: github.com/EnnengYang/An-Efficient-Dataset-Condensation-Plugin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

__all__ = ["ConvNet"]

Activation = Literal["relu", "sigmoid", "leaky_relu", "swish"]
Norm = Literal["none", "batch", "layer", "instance", "group"]
Pooling = Literal["none", "max", "average"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "swish": nn.SiLU,
}
_POOLINGS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


class ConvNet(nn.Module):
    """Blocks of a 3x3 convolution, normalization, activation and 2x2 pooling, and a linear head [1].

    The first convolution pads images of one channel by 3 pixels, so that 28 become 32, and others by 1. Layers start
    as PyTorch has them. Parameters of ``features`` have the names and the order of the authors' network; their
    ``classifier`` is ``linear`` here.

    Args:
        num_classes: outputs of the linear head. 320 010 parameters with 10 classes and images of 3x32x32, 317 706 with
            1x28x28.
        input_size: side of the square input images in pixels; every pooling halves it, and at least one pixel must
            stay.
        in_channels: channels of the images.
        width: channels of every convolution.
        depth: number of blocks.
        activation: ``"swish"`` is x sigmoid(x); the slope of ``"leaky_relu"`` is 0.01.
        norm: ``"instance"`` is group normalization with a group for each channel, ``"group"`` with four groups;
            ``"layer"`` normalizes over channels and positions. All have an affine map.
        pooling: what halves the maps, or ``"none"``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_size: int = 32,
        in_channels: int = 3,
        width: int = 128,
        depth: int = 3,
        activation: Activation = "relu",
        norm: Norm = "instance",
        pooling: Pooling = "average",
    ) -> None:
        super().__init__()
        counts = {"num_classes": num_classes, "in_channels": in_channels, "width": width, "depth": depth}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        for name, choice, known in (
            ("activation", activation, get_args(Activation)),
            ("norm", norm, get_args(Norm)),
            ("pooling", pooling, get_args(Pooling)),
        ):
            if choice not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {choice!r}")
        if norm == "group" and width % 4:
            raise ValueError(f"width must be a multiple of 4 for norm='group', got {width}")
        layers: list[nn.Module] = []
        channels, side = in_channels, input_size
        for _ in range(depth):
            padding = 3 if not layers and in_channels == 1 else 1
            layers.append(nn.Conv2d(channels, width, 3, padding=padding))
            channels, side = width, side + 2 * padding - 2
            layers += _normalization(norm, width, side)
            layers.append(_ACTIVATIONS[activation]())
            if pooling != "none":
                layers.append(_POOLINGS[pooling](2))
                side //= 2
        if side < 1:
            raise ValueError(f"input_size is too small for depth={depth}: no pixel is left of {input_size}")
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.num_features = width * side * side
        self.linear = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits


def _normalization(norm: Norm, channels: int, side: int) -> list[nn.Module]:
    if norm == "none" or side < 1:
        return []
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    if norm == "layer":
        return [nn.LayerNorm([channels, side, side])]
    return [nn.GroupNorm(channels if norm == "instance" else 4, channels)]
