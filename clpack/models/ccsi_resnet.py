"""The networks of CCSI: residual networks with continual normalization and a cosine classifier.

References:
    [1] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from .cosine import CosineLinear
from .normalization import ContinualNorm2d

__all__ = ["CCSIResNet"]

Norm = Literal["continual", "batch"]
Size = Literal["small", "large"]


class CCSIResNet(nn.Module):
    """The residual networks of [1].

    The small one, for images of about 32 pixels, has a stem with stride 2 and three blocks of 16, 32 and 64 channels
    that keep the size of the maps. The large one, for 224 pixels, has four stages of two blocks, each of which halves
    the maps, and no ReLU after the last block. Averages over 7x7 positions, as far as whole windows fit, go to the
    head. Convolutions start from Kaiming's normal distribution by their outputs.

    Args:
        num_classes: outputs of the head. The small network has 77 905 parameters with 2 classes and images of 3x32x32.
        in_channels: channels of the images.
        input_size: side of the square input images in pixels, at least 13, or 193 for the large network.
        size: ``"small"`` or ``"large"``.
        norm: ``"continual"``, or ``"batch"`` as in the method that [1] continues.
        num_groups: of continual normalization; a divisor of 16.
        momentum: of the running statistics. [1] uses 1.0 in its code: those of the last batch.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        in_channels: int = 3,
        input_size: int = 32,
        size: Size = "small",
        norm: Norm = "continual",
        num_groups: int = 4,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        for name, choice, known in (("size", size, get_args(Size)), ("norm", norm, get_args(Norm))):
            if choice not in known:
                raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {choice!r}")

        def normalization(channels: int) -> nn.Module:
            if norm == "batch":
                return nn.BatchNorm2d(channels, momentum=momentum)
            return ContinualNorm2d(channels, num_groups, momentum=momentum)

        large = size == "large"
        self.conv1 = nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False)
        self.bn1 = normalization(16)
        blocks = []
        channels, side = 16, (input_size + 1) // 2
        for width in (16, 32, 64, 128) if large else (16, 32, 64):
            blocks.append(_Block(channels, width, 2 if large else 1, normalization))
            if large:
                blocks.append(_Block(width, width, 1, normalization, end_with_relu=width < 128))
                side = (side + 1) // 2
            channels = width
        if side < 7:
            raise ValueError(f"input_size must be at least {193 if large else 13} pixels, got {input_size}")
        self.blocks = nn.Sequential(*blocks)
        self.num_features = channels * (side // 7) ** 2
        self.linear: nn.Module = CosineLinear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, num_features)``, the input of the head."""
        out = self.blocks(F.relu(self.bn1(self.conv1(images)), inplace=True))
        return F.avg_pool2d(out, 7).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        norm: Callable[[int], nn.Module],
        *,
        end_with_relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm(channels))
        self.end_with_relu = end_with_relu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))) + self.shortcut(x)
        return F.relu(out, inplace=True) if self.end_with_relu else out
