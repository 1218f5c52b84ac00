"""ResNet-18 from weights trained on ImageNet, the network of TAG's Split-CUB.

References:
    [1] K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016, arXiv:1512.03385.
    [2] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, arXiv:2105.05155. Authors' code: github.com/pranshu28/TAG (MIT).
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from clpack.files import resolve_dataset_root

__all__ = ["ImageNetResNet18", "find_imagenet_weights"]

# The authors had resnet18-5c106cde.pth: the same numbers, in a format that only a full unpickler reads.
_FILE = "resnet18-f37072fd.pth"
_URL = "https://download.pytorch.org/models/"
_CHECKSUM = re.compile(r"-([0-9a-f]{8,64})\.")  # in names of files, as torch.hub has it: the beginning of the SHA-256


class ImageNetResNet18(nn.Module):
    """torchvision's ResNet-18 [1] with a new head, from weights trained on ImageNet, as the authors of TAG have it [2].

    Everything is trained, the head from random weights. 11 279 112 parameters with 200 classes.

    Args:
        num_classes: outputs of the linear head.
        input_size: side of the square input images in pixels, at least 33: the last map, averaged before the head,
            must have more than one position for batches of one image to have statistics. It changes no layer.
        in_channels: channels of the images, 3.
        pretrained: whether to start from the weights trained on ImageNet; False draws random ones. On the meta device,
            which has no numbers, no weights are read.
        weights: the file with these weights, for which see :func:`find_imagenet_weights`. Default: None, where it is
            looked for.

    Raises:
        ValueError: if an argument is out of range, or the file is not what it should be.
        FileNotFoundError: if there is no such file; the message says where to get it.
    """

    def __init__(
        self,
        num_classes: int = 200,
        *,
        input_size: int = 224,
        in_channels: int = 3,
        pretrained: bool = True,
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be positive, got {num_classes}")
        if in_channels != 3:
            raise ValueError(f"in_channels must be 3, got {in_channels}: the network is for images in color")
        if input_size < 33:
            raise ValueError(f"input_size must be at least 33 pixels for a last map of 2x2, got {input_size}")
        if weights is not None and not pretrained:
            raise ValueError(f"weights are for pretrained=True, got {str(weights)!r} with pretrained=False; drop one")
        from torchvision.models import resnet18  # takes seconds to import

        network = resnet18()
        self.num_features = network.fc.in_features
        if pretrained and not network.fc.weight.is_meta:
            _load(network, find_imagenet_weights(weights))
        network.fc = nn.Identity()
        self.features = network  # maps (B, 3, H, W) to (B, 512), the input of the head
        self.linear = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, 3, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.features(images))
        return logits


def find_imagenet_weights(weights: str | os.PathLike[str] | None = None) -> Path:
    """Returns the file with the weights of ResNet-18 trained on ImageNet, after a check of its content.

    They are torchvision's ``ResNet18_Weights.IMAGENET1K_V1``. Nothing is downloaded.

    Args:
        weights: the file; if its name ends with a checksum, as ``resnet18-f37072fd.pth`` does, its content must have
            it. None looks for ``resnet18-f37072fd.pth`` in the folder ``weights`` of the dataset root (the environment
            variable ``CLPACK_DATA``, and if that is unset, ``~/.clpack``), then where torch.hub keeps its downloads.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its content is not that of its name.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    places = (
        [resolve_dataset_root() / "weights" / _FILE, cache / _FILE] if weights is None else [Path(weights).expanduser()]
    )
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"the weights of ResNet-18 trained on ImageNet are not in {' nor in '.join(map(str, places))}. clpack "
            f"downloads nothing by itself: get {_URL}{_FILE} and put it there. Another dataset root can be named with "
            "the environment variable CLPACK_DATA, another file with weights=..."
        )
    named = _CHECKSUM.search(path.name)
    if named:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(named[1]):
            raise ValueError(
                f"{path} has wrong content: by its name its SHA-256 begins with {named[1]}, but it is {found} "
                f"({path.stat().st_size} bytes); get {_URL}{_FILE}"
            )
    return path


def _load(network: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} cannot be read as weights and nothing else; files in torch's oldest format, such as "
            f"resnet18-5c106cde.pth, are programs and are refused: get {_URL}{_FILE}, which has the same weights"
        ) from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{path} has no weights of torchvision's ResNet-18: {error}") from error
