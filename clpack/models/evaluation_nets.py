"""The networks on which condensed data sets are evaluated, by the names that the authors give them.

References:
    [1] B. Zhao, K. R. Mopuri, H. Bilen. Dataset Condensation with Gradient Matching. ICLR 2021, arXiv:2006.05929.
        Authors' code: github.com/VICO-UoE/DatasetCondensation (MIT), of which all networks here are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from clpack.names import unknown_name

from .convnet import ConvNet
from .mlp import MLP

__all__ = [
    "EVALUATION_NETWORKS",
    "EVALUATION_POOLS",
    "VGG11",
    "AlexNet",
    "CondensationResNet18",
    "LeNet",
    "build_network",
]

Norm = Literal["none", "instance", "batch"]


class _Classifier(nn.Module):
    """Features, flattened, and a linear head."""

    def __init__(self, features: nn.Sequential, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.num_features = num_features
        self.linear = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits


class LeNet(_Classifier):
    """LeNet with ReLU and max-pooling [1]: two 5x5 convolutions and hidden layers of 120 and 84 units.

    Args:
        num_classes: outputs of the linear head. 62 006 parameters with 10 classes and images of 3x32x32.
        input_size: side of the square input images in pixels, at least 16. Maps of images that are larger than those of
            [1], 28 pixels with one channel and 32 otherwise, are averaged to 5x5 before the hidden layers.
        in_channels: channels of the images; images of one channel are padded by 2.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_classes: int = 10, *, input_size: int = 32, in_channels: int = 3) -> None:
        _check(num_classes, input_size, in_channels, 16)
        features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2 if in_channels == 1 else 0),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(5),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        super().__init__(features, 84, num_classes)


class AlexNet(_Classifier):
    """AlexNet for small images [1]: five convolutions and a linear head.

    Args:
        num_classes: outputs of the linear head. 1 872 202 parameters with 10 classes and images of 3x32x32.
        input_size: side of the square input images in pixels, at least 8. Maps of sizes other than those of [1] are
            averaged to 4x4 before the head.
        in_channels: channels of the images; the first convolution pads images of one channel by 4, others by 2.
        norm: what follows every convolution.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, num_classes: int = 10, *, input_size: int = 32, in_channels: int = 3, norm: Norm = "none"
    ) -> None:
        _check(num_classes, input_size, in_channels, 8)
        layers: list[nn.Module] = []
        channels = in_channels
        first_padding = 4 if in_channels == 1 else 2
        for width, kernel_size, padding, pool in (
            (128, 5, first_padding, True),
            (192, 5, 2, True),
            (256, 3, 1, False),
            (192, 3, 1, False),
            (192, 3, 1, True),
        ):
            layers += [
                nn.Conv2d(channels, width, kernel_size, padding=padding),
                *_normalization(norm, width),
                nn.ReLU(),
            ]
            layers += [nn.MaxPool2d(2)] * pool
            channels = width
        features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        super().__init__(features, 192 * 4 * 4, num_classes)


class VGG11(_Classifier):
    """VGG-11 for small images [1]: eight 3x3 convolutions, five poolings and a linear head.

    Args:
        num_classes: outputs of the linear head. 9 231 114 parameters with 10 classes and images of 3x32x32.
        input_size: side of the square input images in pixels, at least 28 with one channel and 32 otherwise. The last
            map is averaged before the head; it has one pixel for the sizes of [1].
        in_channels: channels of the images; the first convolution pads images of one channel by 3, others by 1.
        norm: what follows every convolution.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, num_classes: int = 10, *, input_size: int = 32, in_channels: int = 3, norm: Norm = "instance"
    ) -> None:
        _check(num_classes, input_size, in_channels, 28 if in_channels == 1 else 32)
        layers: list[nn.Module] = []
        channels = in_channels
        for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
            if not width:
                layers.append(nn.MaxPool2d(2))
                continue
            padding = 3 if not layers and in_channels == 1 else 1
            layers += [nn.Conv2d(channels, width, 3, padding=padding), *_normalization(norm, width), nn.ReLU()]
            channels = width
        features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(features, 512, num_classes)


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; strides may be poolings instead."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm, average_pooling: bool) -> None:
        super().__init__()
        halve = stride > 1 and average_pooling
        if halve:
            stride = 1
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = _normalization(norm, channels)[0]
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = _normalization(norm, channels)[0]
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride, bias=False))
            if halve:
                self.shortcut.append(nn.AvgPool2d(2))
            self.shortcut.append(_normalization(norm, channels)[0])

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CondensationResNet18(nn.Module):
    """ResNet-18 for small images with a choice of normalization [1].

    With ``norm="batch"`` it is :class:`ResNet18` for images of up to 32 pixels.

    Args:
        num_classes: outputs of the linear head. 11 173 962 parameters with 10 classes and images of 3x32x32.
        input_size: side of the square input images in pixels, at least 8.
        in_channels: channels of the images.
        norm: ``"instance"``, a group for each channel, or ``"batch"``.
        average_pooling: instead of convolutions with stride 2, pool 2x2 averages, and keep the positions of the last
            map, up to 4x4, apart before the head; otherwise the last map is averaged.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_size: int = 32,
        in_channels: int = 3,
        norm: Norm = "instance",
        average_pooling: bool = False,
    ) -> None:
        super().__init__()
        _check(num_classes, input_size, in_channels, 8)
        if norm not in ("instance", "batch"):
            raise ValueError(f"norm must be 'instance' or 'batch', got {norm!r}")
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = _normalization(norm, 64)[0]
        self.layer1 = _stage(64, 64, 1, norm, average_pooling)
        self.layer2 = _stage(64, 128, 2, norm, average_pooling)
        self.layer3 = _stage(128, 256, 2, norm, average_pooling)
        self.layer4 = _stage(256, 512, 2, norm, average_pooling)
        self.side = min(4, input_size // 8) if average_pooling else 1
        self.num_features = 512 * self.side * self.side
        self.linear = nn.Linear(self.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, num_features)``, the input of the head."""
        out = F.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = stage(out)
        return F.adaptive_avg_pool2d(out, self.side).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits


def _stage(in_channels: int, channels: int, stride: int, norm: Norm, average_pooling: bool) -> nn.Sequential:
    first = _Block(in_channels, channels, stride, norm, average_pooling)
    return nn.Sequential(first, _Block(channels, channels, 1, norm, average_pooling))


def _normalization(norm: Norm, channels: int) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    if norm == "instance":
        return [nn.GroupNorm(channels, channels)]
    if norm == "none":
        return []
    raise ValueError(f"norm must be 'none', 'instance' or 'batch', got {norm!r}")


def _check(num_classes: int, input_size: int, in_channels: int, smallest: int) -> None:
    if num_classes < 1 or in_channels < 1:
        raise ValueError(f"num_classes and in_channels must be positive, got {num_classes} and {in_channels}")
    if input_size < smallest:
        raise ValueError(f"input_size must be at least {smallest} pixels, got {input_size}")


def _mlp(num_classes: int, *, input_size: int, in_channels: int) -> MLP:
    return MLP(num_classes, input_size=in_channels * input_size * input_size, hidden_sizes=(128, 128))


EVALUATION_NETWORKS: dict[str, tuple[Callable[..., nn.Module], dict[str, object]]] = {
    "MLP": (_mlp, {}),
    "LeNet": (LeNet, {}),
    "AlexNet": (AlexNet, {}),
    "AlexNetBN": (AlexNet, {"norm": "batch"}),
    "VGG11": (VGG11, {}),
    "VGG11BN": (VGG11, {"norm": "batch"}),
    "ResNet18": (CondensationResNet18, {}),
    "ResNet18BN": (CondensationResNet18, {"norm": "batch"}),
    "ResNet18BN_AP": (CondensationResNet18, {"norm": "batch", "average_pooling": True}),
    "ConvNet": (ConvNet, {}),
    **{f"ConvNetD{depth}": (ConvNet, {"depth": depth}) for depth in (1, 2, 3, 4)},
    **{f"ConvNetW{width}": (ConvNet, {"width": width}) for width in (32, 64, 128, 256)},
    "ConvNetAS": (ConvNet, {"activation": "sigmoid"}),
    "ConvNetAR": (ConvNet, {"activation": "relu"}),
    "ConvNetAL": (ConvNet, {"activation": "leaky_relu"}),
    "ConvNetASwish": (ConvNet, {"activation": "swish"}),
    "ConvNetASwishBN": (ConvNet, {"activation": "swish", "norm": "batch"}),
    "ConvNetNN": (ConvNet, {"norm": "none"}),
    "ConvNetBN": (ConvNet, {"norm": "batch"}),
    "ConvNetLN": (ConvNet, {"norm": "layer"}),
    "ConvNetIN": (ConvNet, {"norm": "instance"}),
    "ConvNetGN": (ConvNet, {"norm": "group"}),
    "ConvNetNP": (ConvNet, {"pooling": "none"}),
    "ConvNetMP": (ConvNet, {"pooling": "max"}),
    "ConvNetAP": (ConvNet, {"pooling": "average"}),
}
"""Every name with the class it builds and the options that make the variant."""

EVALUATION_POOLS: dict[str, tuple[str, ...]] = {
    "M": ("MLP", "ConvNet", "LeNet", "AlexNet", "VGG11", "ResNet18"),
    "B": ("ConvNetBN", "ConvNetASwishBN", "AlexNetBN", "VGG11BN", "ResNet18BN"),
    "W": ("ConvNetW32", "ConvNetW64", "ConvNetW128", "ConvNetW256"),
    "D": ("ConvNetD1", "ConvNetD2", "ConvNetD3", "ConvNetD4"),
    "A": ("ConvNetAS", "ConvNetAR", "ConvNetAL", "ConvNetASwish"),
    "P": ("ConvNetNP", "ConvNetMP", "ConvNetAP"),
    "N": ("ConvNetNN", "ConvNetBN", "ConvNetLN", "ConvNetIN", "ConvNetGN"),
}
"""The pools of [1] over which cross-architecture results are taken: their letters, and the names in them."""


def build_network(name: str, num_classes: int = 10, *, input_size: int = 32, in_channels: int = 3) -> nn.Module:
    """Builds a network of the condensation papers by its name.

    Args:
        name: one of :data:`EVALUATION_NETWORKS`.
        num_classes: outputs of the linear head.
        input_size: side of the square input images in pixels.
        in_channels: channels of the images.

    Raises:
        ValueError: if there is no such network, or it cannot take such images.
    """
    if name not in EVALUATION_NETWORKS:
        raise ValueError(unknown_name("network", name, EVALUATION_NETWORKS))
    network, options = EVALUATION_NETWORKS[name]
    return network(num_classes, input_size=input_size, in_channels=in_channels, **options)
