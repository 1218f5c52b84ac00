"""Data sets of small images, read from their files into memory with 8 bits for each channel of each pixel.

Each function takes the dataset root, whose files have been checked, and returns the training and the test images,
``(N, C, H, W)``, in the order of the files.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import datasets

from clpack.data import TensorImages
from clpack.randomness import generator_for

__all__ = [
    "CIFAR10_CLASSES",
    "decoded",
    "read_cifar",
    "read_cifar10_jpeg",
    "read_grey",
    "read_notmnist",
    "read_svhn",
    "stacked",
]

_Parts = tuple[TensorImages, TensorImages]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_JPEG = re.compile(r"(train|test)/([a-z]+)/(\d+)\.jpg")
_LETTER = re.compile(r"(?:.*/)?([A-J])/[^/]+\.png")
_NOTMNIST_IMAGES = 18724
_BROKEN_IMAGE = (UnidentifiedImageError, OSError, SyntaxError)  # what Pillow raises


def read_grey(data_set: Literal["MNIST", "FashionMNIST"], root: Path) -> _Parts:
    """Reads MNIST or Fashion-MNIST."""
    train, test = (getattr(datasets, data_set)(root, train=part) for part in (True, False))
    return TensorImages(train.data.unsqueeze(1), train.targets), TensorImages(test.data.unsqueeze(1), test.targets)


def read_cifar(data_set: Literal["CIFAR10", "CIFAR100"], root: Path) -> _Parts:
    """Reads CIFAR-10 or CIFAR-100."""
    train, test = (getattr(datasets, data_set)(root, train=part) for part in (True, False))
    return TensorImages(stacked(train.data), train.targets), TensorImages(stacked(test.data), test.targets)


def read_svhn(root: Path) -> _Parts:
    """Reads the cropped digits of SVHN."""
    train, test = (datasets.SVHN(str(root / "SVHN"), split=part) for part in ("train", "test"))
    return (
        TensorImages(torch.from_numpy(train.data).contiguous(), train.labels),
        TensorImages(torch.from_numpy(test.data).contiguous(), test.labels),
    )


def read_cifar10_jpeg(root: Path) -> _Parts:
    """Reads CIFAR-10 after JPEG compression: class after class, each in the order of the original."""
    found: dict[str, list[tuple[int, int, str]]] = {"train": [], "test": []}
    with zipfile.ZipFile(root / "cifar10-jpeg/cifar10-jpeg.zip") as archive:
        for name in archive.namelist():
            match = _JPEG.fullmatch(name)
            if match is not None:
                found[match[1]].append((CIFAR10_CLASSES.index(match[2]), int(match[3]), name))
        train, test = (
            TensorImages(
                decoded([io.BytesIO(archive.read(name)) for *_, name in samples], _as_rgb),
                [label for label, *_ in samples],
            )
            for samples in map(sorted, found.values())
        )
    return train, test


def _as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB"))


def read_notmnist(root: Path) -> tuple[TensorImages, TensorImages, int]:
    """Reads notMNIST-small from its tar and takes a tenth of it, always the same, for testing.

    The data set has no test part of its own. The images are sorted by letter and file name before they are drawn.

    Returns:
        The training images, the test images, and how many files were skipped because they hold no image.

    Raises:
        ValueError: if the tar is damaged, or does not have 18724 images that can be read.
    """
    path = root / "notMNIST/notMNIST_small.tar"
    found: list[tuple[str, str, NDArray[np.uint8]]] = []
    skipped = 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                match = _LETTER.fullmatch(member.name)
                content = archive.extractfile(member) if match and member.isfile() else None
                if match is None or content is None:
                    continue
                try:
                    with Image.open(io.BytesIO(content.read())) as image:
                        found.append((match[1], member.name, np.asarray(image.convert("L"))))
                except _BROKEN_IMAGE:
                    skipped += 1
    except tarfile.TarError as error:
        raise ValueError(f"{path} is damaged ({error}); get notMNIST-small again") from error
    if len(found) != _NOTMNIST_IMAGES:
        raise ValueError(
            f"{path} must hold the {_NOTMNIST_IMAGES} images of notMNIST-small, got {len(found)} and {skipped} files "
            "that cannot be read; get notMNIST-small again"
        )
    found.sort(key=lambda each: each[:2])
    images = torch.from_numpy(np.stack([pixels for *_, pixels in found])).unsqueeze(1)
    labels = torch.tensor([ord(letter) - ord("A") for letter, *_ in found])
    drawn = torch.randperm(len(found), generator=generator_for(0, "test images of notMNIST"))
    test, train = (rows.sort().values for rows in drawn.split([len(found) // 10, len(found) - len(found) // 10]))
    return TensorImages(images[train], labels[train]), TensorImages(images[test], labels[test]), skipped


def decoded(files: Sequence[Path | IO[bytes]], as_pixels: Callable[[Image.Image], NDArray[np.uint8]]) -> Tensor:
    """Decodes image files, several at a time.

    Args:
        files: the files; at least one.
        as_pixels: makes an array ``(H, W, C)`` of a decoded image, of the same shape for all.

    Returns:
        uint8 tensor of shape ``(N, C, H, W)``.

    Raises:
        ValueError: if a file is no image or is damaged.
    """

    def decode(some: Sequence[Path | IO[bytes]]) -> list[NDArray[np.uint8]]:
        return [_decoded(file, as_pixels) for file in some]

    batches = [files[start : start + 64] for start in range(0, len(files), 64)]  # one by one, threads would cost more
    images = torch.empty(0, dtype=torch.uint8)
    with ThreadPoolExecutor() as threads:
        for number, part in enumerate(threads.map(decode, batches)):
            if not number:
                height, width, channels = part[0].shape
                images = images.new_empty(len(files), channels, height, width)
            images[64 * number : 64 * number + len(part)] = torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2)
    return images


def _decoded(file: Path | IO[bytes], as_pixels: Callable[[Image.Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return as_pixels(image)
    except _BROKEN_IMAGE as error:
        raise ValueError(f"{file} cannot be read as an image ({error}); get it again") from error


def stacked(images: NDArray[np.uint8]) -> Tensor:
    """Returns images ``(N, H, W, C)`` as a tensor ``(N, C, H, W)``."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
