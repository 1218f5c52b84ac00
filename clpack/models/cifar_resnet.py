"""The residual networks of the example-forgetting experiments on CIFAR.

References:
    [1] M. Toneva et al. An Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019,
        arXiv:1812.05159. Authors' code: github.com/mtoneva/example_forgetting (MIT).
    [2] K. He et al. Deep Residual Learning for Image Recognition. CVPR 2016, arXiv:1512.03385.
    [3] S. Zagoruyko, N. Komodakis. Wide Residual Networks. BMVC 2016, arXiv:1605.07146.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResNet18", "WideResNet"]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut [2]."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images [1, 2]: a 3x3 stem of stride 1 without pooling, and four stages of two blocks.

    Args:
        num_classes: outputs of the linear head. 11 173 962 parameters with 10 classes and images of 3x32x32.
        input_size: side of the square input images in pixels, at least 25: the last map must hold a 4x4 window.
        in_channels: channels of the images.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_classes: int = 10, *, input_size: int = 32, in_channels: int = 3) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes and in_channels must be positive, got {num_classes} and {in_channels}")
        if input_size < 25:
            raise ValueError(f"input_size must be at least 25 pixels for the final 4x4 pooling, got {input_size}")
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_BasicBlock(64, 64, 1), _BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(_BasicBlock(64, 128, 2), _BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(_BasicBlock(128, 256, 2), _BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(_BasicBlock(256, 512, 2), _BasicBlock(512, 512, 1))
        side = -(-input_size // 8) // 4
        self.num_features = 512 * side * side
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


class _WideBlock(nn.Module):
    """Two 3x3 convolutions, each after normalization and ReLU, with dropout between them, and a shortcut [3]."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        # A stride above 1 never comes without a change of channels.
        same = in_channels == channels
        self.shortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = self.dropout(F.relu(self.bn2(self.conv1(activated))))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(activated)
        summed: Tensor = self.conv2(out) + shortcut
        return summed


def _wide_stage(count: int, in_channels: int, channels: int, stride: int, dropout: float) -> nn.Sequential:
    rest = [_WideBlock(channels, channels, 1, dropout) for _ in range(count - 1)]
    return nn.Sequential(_WideBlock(in_channels, channels, stride, dropout), *rest)


class WideResNet(nn.Module):
    """The wide residual network [3], by default WRN-28-10 with dropout as in [1].

    Weights of convolutions start normal with variance 2 / fan-out; the biases start at zero.

    Args:
        num_classes: outputs of the linear head. 36 479 194 parameters with 10 classes and images of 3x32x32.
        input_size: side of the square input images in pixels, at least 29: the last map must hold an 8x8 window.
        in_channels: channels of the images.
        depth: number of convolutions in series plus the head: 6n + 4 for stages of n blocks.
        width: the three stages have ``width * (16, 32, 64)`` channels.
        dropout: probability of dropping a unit between the convolutions of a block, in [0, 1).

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_size: int = 32,
        in_channels: int = 3,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1 or width < 1:
            raise ValueError(
                f"num_classes, in_channels and width must be positive, got {num_classes}, {in_channels} and {width}"
            )
        if input_size < 29:
            raise ValueError(f"input_size must be at least 29 pixels for the final 8x8 pooling, got {input_size}")
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 10, 16, 22, 28 or another 6n + 4, got {depth}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        count = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _wide_stage(count, 16, 16 * width, 1, dropout)
        self.layer2 = _wide_stage(count, 16 * width, 32 * width, 2, dropout)
        self.layer3 = _wide_stage(count, 32 * width, 64 * width, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        side = -(-input_size // 4) // 8
        self.num_features = 64 * width * side * side
        self.linear = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def features(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, num_features)``, the input of the head."""
        out = self.conv1(images)
        for stage in (self.layer1, self.layer2, self.layer3):
            out = stage(out)
        return F.avg_pool2d(F.relu(self.bn(out)), 8).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits
