"""Networks of the papers, in plain PyTorch.

Every classifier has ``features`` (images to feature vectors of ``num_features`` numbers) and a ``linear`` head.
"""

from .ccsi_resnet import CCSIResNet
from .cifar_resnet import ResNet18, WideResNet
from .convnet import ConvNet
from .cosine import CosineLinear, SplitCosineLinear, imprinted_weights
from .evaluation_nets import (
    EVALUATION_NETWORKS,
    EVALUATION_POOLS,
    VGG11,
    AlexNet,
    CondensationResNet18,
    LeNet,
    build_network,
)
from .genimage_resnet import GenImageResNet18
from .imagenet_resnet import ImageNetResNet18, find_imagenet_weights
from .mlp import MLP
from .mnist_net import MNISTNet
from .normalization import ContinualNorm2d, replace_batch_norm
from .resnet import ReducedResNet18
from .subnetworks import MaskedSubnetworks

__all__ = [
    "EVALUATION_NETWORKS",
    "EVALUATION_POOLS",
    "MLP",
    "VGG11",
    "AlexNet",
    "CCSIResNet",
    "CondensationResNet18",
    "ContinualNorm2d",
    "ConvNet",
    "CosineLinear",
    "GenImageResNet18",
    "ImageNetResNet18",
    "LeNet",
    "MNISTNet",
    "MaskedSubnetworks",
    "ReducedResNet18",
    "ResNet18",
    "SplitCosineLinear",
    "WideResNet",
    "build_network",
    "find_imagenet_weights",
    "imprinted_weights",
    "replace_batch_norm",
]
