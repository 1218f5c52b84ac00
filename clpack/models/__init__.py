"""Networks of the papers, in plain PyTorch.

Every classifier has ``features`` (images to feature vectors of ``num_features`` numbers) and a ``linear`` head.
"""

from .cifar_resnet import ResNet18, WideResNet
from .genimage_resnet import GenImageResNet18
from .mlp import MLP
from .mnist_net import MNISTNet
from .resnet import ReducedResNet18
from .subnetworks import MaskedSubnetworks

__all__ = ["MLP", "GenImageResNet18", "MNISTNet", "MaskedSubnetworks", "ReducedResNet18", "ResNet18", "WideResNet"]
