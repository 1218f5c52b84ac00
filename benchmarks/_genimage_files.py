"""GenImage on the disk, in its three forms: as downloaded, the authors' tensors, and clpack's prepared arrays.

Below a dataset root, or its folder ``genimage``, the images of one generator, task, split and form lie in

* prepared: ``<generator>/<task>/<split>/<form>/`` with ``images.npy`` (uint8, ``(N, 3, 64, 64)``), ``labels.npy``
  (uint8, ``(N,)``, 0 to 99) and ``manifest.json``, in the order of the file names; the manifest gets its name last,
  and without it the arrays are not read;
* the authors' tensors: ``X.pt`` (float32, normalized) and ``y.pt`` (int64, devkit id - 1) in the same folders, or in
  those that the authors' programs read and write;
* as downloaded: ``<archive>/<split>/<form>/`` with all classes together, see :func:`raw_folder`.

The split is GenImage's ``train`` or ``val``, the form ``nature`` or ``ai``.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import ConvertImageDtype

from clpack.data import BatchTransform, TensorImages

from ._genimage_classes import CLASSES_PER_TASK, GENERATORS, Form, Split, class_set
from ._genimage_prepared import AGAIN, read_manifest, size_problem
from ._genimage_raw import SIDE, RawFile, is_filled, list_raw, raw_folder, to_pixels

__all__ = ["MEAN", "STD", "GenImageFiles", "TaskImages"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class TaskImages(NamedTuple):
    """The images of one generator, task, split and form.

    Attributes:
        data: the stored images with their local labels 0 to 99 as ``targets``.
        pixels: makes float32 images in [0, 1] of them.
        kind: which of the three forms of storage it is: ``"prepared"``, ``"tensors"`` or ``"raw"``.
    """

    data: Any
    pixels: Callable[[Tensor], Tensor]
    kind: str


class GenImageFiles:
    """The images below a dataset root, in whichever form they are there.

    Args:
        root: the folder, or one whose folder ``genimage`` holds the images.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._bases = (root / "genimage", root)
        self._listings: dict[Path, list[list[RawFile]]] = {}

    def find(self, generator: str, task: int, split: Split, form: Form) -> TaskImages | None:
        """Opens images; None if there are none of this kind in any form.

        Args:
            generator: a key of ``GENERATORS``.
            task: whose classes, 0 to 5.
            split: ``"train"`` or ``"val"``.
            form: ``"nature"`` or ``"ai"``.

        Raises:
            ValueError: if a file is damaged.
        """
        for base in self._bases:
            prepared = base / generator / str(task) / split / form
            if (prepared / "manifest.json").is_file():
                return TaskImages(_open_prepared(prepared), ConvertImageDtype(torch.float32), "prepared")
            for folder in _tensor_folders(base, generator, task, split, form):
                if (folder / "X.pt").is_file():
                    return TaskImages(_open_tensors(folder, task), _Unnormalize(), "tensors")
            raw = raw_folder(base, generator)
            if raw is not None and (raw / split / form).is_dir():
                files = self._list(raw, generator, split, form)[task]
                return TaskImages(_RawImages(raw / split / form, files, form), ConvertImageDtype(torch.float32), "raw")
        return None

    def _list(self, raw: Path, generator: str, split: Split, form: Form) -> list[list[RawFile]]:
        """Lists a folder as downloaded once for all tasks; what cannot be opened is warned about and left out."""
        folder = raw / split / form
        if folder not in self._listings:
            tasks, _, strange = list_raw(folder, generator, split, form)
            filled = [[file for file in files if is_filled(folder / file.name)] for files in tasks]
            n_empty = sum(map(len, tasks)) - sum(map(len, filled))
            if strange or n_empty:
                warnings.warn(
                    f"{folder}: {len(strange)} entries that are no files of GenImage and {n_empty} empty or "
                    "unreadable files are left out; clpack data prepare genimage lists them",
                    stacklevel=4,
                )
            self._listings[folder] = filled
        return self._listings[folder]


class _RawImages(Dataset[tuple[Tensor, int]]):
    """Images as downloaded, each of which is decoded when it is read."""

    def __init__(self, folder: Path, files: Sequence[RawFile], form: Form) -> None:
        self._folder = folder
        self._names = [file.name for file in files]
        self._form: Form = form
        self.targets = [file.label for file in files]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self._folder / self._names[index]
        try:
            with Image.open(path) as image:
                pixels = to_pixels(image, self._form)
        except Exception as error:  # whatever a damaged file makes a decoder raise
            raise ValueError(
                f"{path} cannot be decoded ({error!r}); remove it, or convert the download with clpack data prepare "
                "genimage, which leaves damaged images out"
            ) from error
        return torch.tensor(pixels), self.targets[index]


class _Unnormalize(BatchTransform):
    """From the authors' normalized images back to [0, 1]."""

    def __init__(self) -> None:
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __call__(self, images: Tensor) -> Tensor:
        return (images * self._std + self._mean).clamp(0, 1)


def _tensor_folders(base: Path, generator: str, task: int, split: Split, form: Form) -> list[Path]:
    """Returns where the authors' programs put the tensors. Their loader takes the test images from ``test``."""
    folders = []
    for part in ("test", "val") if split == "val" else ("train",):
        end = Path(part) / form
        folders += [
            base / generator / str(task) / end,
            base / "Synthetic" / generator / str(task) / end,
            base / "processedSingleGenerators" / generator / "single_generator" / str(task) / end,
        ]
        if list(GENERATORS).index(generator) == task:
            folders.append(base / "processed" / generator / "disjoint" / end)
    return folders


def _open_prepared(folder: Path) -> TensorImages:
    """Opens prepared arrays, of which the images stay on the disk until they are read."""
    manifest = read_manifest(folder)
    for name, file in manifest["files"].items():
        problem = size_problem(folder / name, file["bytes"])
        if problem is not None:
            raise ValueError(f"{folder / name}: {problem}; {AGAIN}")
    n = manifest["images"]
    mapped = {"mmap_mode": "c"} if n else {}  # "c": torch wants writable memory
    images = _open_array(folder / "images.npy", (n, 3, SIDE, SIDE), **mapped)
    labels = _open_array(folder / "labels.npy", (n,))
    if n and labels.max() >= CLASSES_PER_TASK:
        raise ValueError(f"{folder / 'labels.npy'} holds {labels.max()}, which is no label from 0 to 99; {AGAIN}")
    return TensorImages(torch.from_numpy(images), torch.from_numpy(labels))


def _open_array(path: Path, shape: tuple[int, ...], **options: Any) -> NDArray[np.uint8]:
    try:
        array: NDArray[np.uint8] = np.load(path, allow_pickle=False, **options)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from error
    if array.shape != shape or array.dtype != np.uint8:
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}, not uint8 of shape {shape}; {AGAIN}")
    return array


def _open_tensors(folder: Path, task: int) -> TensorImages:
    """Opens the authors' tensors, of which the images stay on the disk until they are read."""
    images, devkit = _load_tensor(folder / "X.pt"), _load_tensor(folder / "y.pt")
    if images.dtype != torch.float32 or images.shape[1:] != (3, SIDE, SIDE) or devkit.shape != images.shape[:1]:
        raise ValueError(
            f"{folder}: X.pt and y.pt must hold float32 images of shape (N, 3, {SIDE}, {SIDE}) and their N labels, "
            f"got {images.dtype} of shape {tuple(images.shape)} and labels of shape {tuple(devkit.shape)}"
        )
    if devkit.dtype != torch.int64:
        raise ValueError(f"{folder / 'y.pt'} must hold int64 labels, got {devkit.dtype}")
    labels = torch.full((1000,), -1)
    labels[[entry.devkit - 1 for entry in class_set(task)]] = torch.arange(CLASSES_PER_TASK)
    known = (devkit >= 0) & (devkit < len(labels))
    targets = labels[devkit.where(known, 0)].where(known, -1)
    if (targets < 0).any():
        strange = devkit[targets < 0].unique().tolist()
        raise ValueError(f"{folder / 'y.pt'} has labels {strange[:5]}, which are no classes of task {task}")
    return TensorImages(images, targets)


def _load_tensor(path: Path) -> Tensor:
    try:
        tensor = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no file of torch.save: {str(error).splitlines()[0]}") from error
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{path} must hold a tensor, got {type(tensor).__name__}")
    return tensor
