"""The modified ResNet-18 of EpochLoss's GenImage experiments.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GenImageResNet18"]


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, channels, 3, stride)
        self.bn1 = _batch_normalization(channels)
        self.conv2 = _convolution(channels, channels, 3)
        self.bn2 = _batch_normalization(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:  # the only normalization with running statistics, as in [1]
            self.shortcut = nn.Sequential(_convolution(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def _convolution(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _batch_normalization(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(in_channels, channels, stride), _Block(channels, channels, 1))


class GenImageResNet18(nn.Module):
    """The network of the GenImage streams [1]: ResNet-18 whose first convolution is 3x3 with stride 1.

    Maps of a 64-pixel image have sides 64, then (after max-pooling and in the four stages) 32, 32, 16, 8 and 4; they
    are averaged before the head. 11 168 832 parameters without the head.

    Batch normalization takes the statistics of the batch in evaluation too, except in the three shortcuts that change
    the shape, which keep running ones. So an output depends, slightly, on the rest of its batch: evaluate in a fixed
    order and with a fixed batch size.

    Args:
        num_classes: outputs of the linear head.
        input_size: side of the square input images in pixels, at least 17: the last map, averaged before the head,
            must have more than one position for batches of one image to have statistics. It changes no layer.
        in_channels: channels of the images.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_classes: int = 100, *, input_size: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes and in_channels must be positive, got {num_classes} and {in_channels}")
        if input_size < 17:
            raise ValueError(f"input_size must be at least 17 pixels for a last map of 2x2, got {input_size}")
        self.conv1 = _convolution(in_channels, 64, 3)
        self.bn1 = _batch_normalization(64)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 128, 2)
        self.layer3 = _stage(128, 256, 2)
        self.layer4 = _stage(256, 512, 2)
        self.num_features = 512
        self.linear = nn.Linear(self.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, 512)``, the input of the head."""
        out = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = stage(out)
        return out.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits
