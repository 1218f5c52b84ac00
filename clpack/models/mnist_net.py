"""The convolutional network of the example-forgetting experiments on MNIST.

References:
    [1] M. Toneva et al. An Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019,
        arXiv:1812.05159. Authors' code: github.com/mtoneva/example_forgetting (MIT).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MNISTNet"]


class MNISTNet(nn.Module):
    """The network of MNIST and permuted MNIST in [1]: two 5x5 convolutions and a hidden layer of 50 units.

    It returns logits, where the authors' network returns their log-softmax: losses (cross-entropy), predictions and
    margins are the same numbers.

    Args:
        num_classes: outputs of the linear head. 21 840 parameters with 10 classes and images of 1x28x28.
        input_size: side of the square input images in pixels, at least 16: each convolution is followed by a pooling
            of 2x2.
        in_channels: channels of the images.
        dropout: whether to drop, with probability 0.5, channels of the second convolution and hidden units. In [1]
            samples are scored without it and removed with it.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, num_classes: int = 10, *, input_size: int = 28, in_channels: int = 1, dropout: bool = True
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes and in_channels must be positive, got {num_classes} and {in_channels}")
        if input_size < 16:
            raise ValueError(f"input_size must be at least 16 pixels for two 5x5 convolutions, got {input_size}")
        side = ((input_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.dropout2d = nn.Dropout2d(0.5 if dropout else 0.0)
        self.fc1 = nn.Linear(20 * side * side, 50)
        self.dropout = nn.Dropout(0.5 if dropout else 0.0)
        self.num_features = 50
        self.linear = nn.Linear(self.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, 50)``, the input of the head."""
        out = F.relu(F.max_pool2d(self.conv1(images), 2))
        out = F.relu(F.max_pool2d(self.dropout2d(self.conv2(out)), 2))
        hidden: Tensor = self.dropout(F.relu(self.fc1(out.flatten(1))))
        return hidden

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits
