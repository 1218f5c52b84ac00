"""Networks of the papers, in plain PyTorch.

Every classifier has ``features`` (images to feature vectors of ``num_features`` numbers) and a ``linear`` head.
"""

from .mlp import MLP
from .resnet import ReducedResNet18

__all__ = ["MLP", "ReducedResNet18"]
