"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers with ReLU between them, on flattened images.

    Args:
        num_classes: outputs of the linear head.
        input_size: numbers per image (``C * H * W``).
        hidden_sizes: widths of the hidden layers, at least one.
        dropout: probability of dropping a hidden unit, in [0, 1).

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_size: int = 784,
        hidden_sizes: Sequence[int] = (256, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1 or input_size < 1:
            raise ValueError(f"num_classes and input_size must be positive, got {num_classes} and {input_size}")
        if not hidden_sizes or min(hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes must hold at least one positive width, got {tuple(hidden_sizes)}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in zip((input_size, *hidden_sizes), hidden_sizes, strict=False):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.features = nn.Sequential(*layers)
        self.num_features = hidden_sizes[-1]
        self.linear = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``(B, ...)`` of ``input_size`` numbers each to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits
