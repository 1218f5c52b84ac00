"""The reduced ResNet-18 of TAG.

References:
    [1] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, arXiv:2105.05155. Authors' code: github.com/pranshu28/TAG (MIT).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ReducedResNet18"]


class _Block(nn.Module):
    """One convolution and a shortcut; batch normalization comes after each ReLU, as in the authors' code."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(dropout))
        self.bn2 = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(dropout))
        same = stride == 1 and in_channels == channels
        self.shortcut = (
            nn.Sequential() if same else nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        u = self.bn1(F.relu(self.conv1(x)))
        out: Tensor = self.bn2(F.relu(u + self.shortcut(x)))
        return out


def _stage(in_channels: int, channels: int, stride: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(_Block(in_channels, channels, stride, dropout), _Block(channels, channels, 1, dropout))


class ReducedResNet18(nn.Module):
    """The network of TAG's Split-CIFAR100, Split-miniImageNet and 5-dataset streams [1].

    Four stages of two blocks; a block has *one* 3x3 convolution, ReLU before batch normalization, and a 1x1 shortcut
    without normalization where the shape changes. This is not Avalanche's ``SlimResNet18``. Parameter names are those
    of the authors, so their state dictionaries load.

    Args:
        num_classes: outputs of the linear head.
        input_size: side of the square input images in pixels, at least 25: the last map must hold a 4x4 window.
        in_channels: channels of the images.
        width: channels of the first stage; the stages have ``width * (1, 2, 4, 8)``. 496 680 parameters with the
            default 20, 100 classes and 32-pixel images.
        dropout: probability of dropping a unit after each normalization, in [0, 1). Only Stable SGD uses it.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int = 100,
        *,
        input_size: int = 32,
        in_channels: int = 3,
        width: int = 20,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1 or width < 1:
            raise ValueError(
                f"num_classes, in_channels and width must be positive, got {num_classes}, {in_channels} and {width}"
            )
        if input_size < 25:
            raise ValueError(f"input_size must be at least 25 pixels for the final 4x4 pooling, got {input_size}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1, dropout)
        self.layer2 = _stage(width, 2 * width, 2, dropout)
        self.layer3 = _stage(2 * width, 4 * width, 2, dropout)
        self.layer4 = _stage(4 * width, 8 * width, 2, dropout)
        side = -(-input_size // 8) // 4
        self.num_features = 8 * width * side * side
        self.linear = nn.Linear(self.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, num_features)``, the input of the head."""
        out = F.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = stage(out)
        return F.avg_pool2d(out, 4).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits
