r"""Synthetic images and how they are stored: as pixels, or as low-rank factors.

Images live in the normalized space of the networks that condensed them, and are unbounded there. Only pictures are
mapped back to pixels in [0, 1].

References:
    [1] E. Yang et al. An Efficient Dataset Condensation Plugin and Its Application to Continual Learning. NeurIPS 2023.
        Authors' code: github.com/EnnengYang/An-Efficient-Dataset-Condensation-Plugin.
"""

from __future__ import annotations

import json
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from clpack.files import atomic_path

__all__ = ["CondensedSet", "LowRankImages", "PixelImages", "SyntheticImages", "equivalent_images_per_class"]

Rounding = Literal["total", "per_image"]

_FORMAT = "clpack.condensed/1"


def equivalent_images_per_class(
    images_per_class: int, height: int, width: int, rank: int, *, rounding: Rounding = "total"
) -> int:
    r"""Returns how many images of rank r fit into the memory of so many plain ones of a class [1].

    A plain channel has H W numbers, a factored one r (H + W), so n = floor(ipc H W / (r (H + W))).

    Args:
        images_per_class: plain images of a class, at least 1.
        height: H, pixels.
        width: W, pixels.
        rank: r, at least 1.
        rounding: ``"total"``, as above and in the documentation of [1]; or ``"per_image"``, as in its code,
            ipc floor(H W / (r (H + W))), which is never more.

    Raises:
        ValueError: if an argument is out of range, or not one image fits.
    """
    for name, value in (("images_per_class", images_per_class), ("height", height), ("width", width), ("rank", rank)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if rounding not in ("total", "per_image"):
        raise ValueError(f"rounding must be 'total' or 'per_image', got {rounding!r}")
    plain, factored = height * width, rank * (height + width)
    count = images_per_class * plain // factored if rounding == "total" else images_per_class * (plain // factored)
    if count == 0:
        raise ValueError(
            f"images of {height}x{width} pixels with rank {rank} take {factored} numbers a channel, more than the "
            f"{plain * (images_per_class if rounding == 'total' else 1)} of the budget; lower rank or raise "
            "images_per_class"
        )
    return count


class SyntheticImages(nn.Module, ABC):
    """What :class:`PixelImages` and :class:`LowRankImages` have in common: ``N`` images of shape ``(C, H, W)``.

    Attributes:
        shape: ``(N, C, H, W)``.
    """

    def __init__(self, num_images: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        for name, value in (
            ("num_images", num_images),
            ("channels", channels),
            ("height", height),
            ("width", width),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.shape = (num_images, channels, height, width)

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def images(self, indices: Tensor | slice | None = None) -> Tensor:
        """Decodes images, with a graph to the parameters.

        Args:
            indices: which: an int64 tensor of shape ``(B,)``, or a slice. Default: all.

        Returns:
            Tensor of shape ``(B, C, H, W)``, float32 even where less precise numbers are stored.
        """

    @abstractmethod
    def fill_(self, images: Tensor) -> None:
        """Takes over images of shape ``(N, C, H, W)``, as well as the storage can hold them."""

    def fill_noise_(self, noise: Iterable[Tensor]) -> None:
        """Starts from standard normal noise, a tensor for each parameter."""
        with torch.no_grad():
            for parameter, values in zip(self.parameters(), noise, strict=True):
                parameter.copy_(values)

    @abstractmethod
    def equivalent_images_per_class(self, images_per_class: int, *, rounding: Rounding = "total") -> int:
        """Returns how many images of this kind fit into the memory of ``images_per_class`` plain float32 ones."""

    @property
    def numel(self) -> int:
        """Stored numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def nbytes(self) -> int:
        """Stored bytes: 4 for each number, 2 in half precision."""
        return sum(parameter.nbytes for parameter in self.parameters())

    def _fits(self, images: Tensor) -> Tensor:
        if images.shape != self.shape:
            raise ValueError(f"images must have shape {self.shape}, got {tuple(images.shape)}")
        return images


class PixelImages(SyntheticImages):
    """Images as they are, ``C H W`` numbers each; zeros at first.

    Args:
        num_images: ``N``.
        channels: ``C``.
        height: ``H``, pixels.
        width: ``W``, pixels.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_images: int, channels: int, height: int, width: int) -> None:
        super().__init__(num_images, channels, height, width)
        self.pixels = nn.Parameter(torch.zeros(self.shape))

    def images(self, indices: Tensor | slice | None = None) -> Tensor:
        """See :meth:`SyntheticImages.images`."""
        pixels: Tensor = self.pixels if indices is None else self.pixels[indices]
        return pixels.float()

    def fill_(self, images: Tensor) -> None:
        """See :meth:`SyntheticImages.fill_`; exact."""
        with torch.no_grad():
            self.pixels.copy_(self._fits(images))

    def equivalent_images_per_class(self, images_per_class: int, *, rounding: Rounding = "total") -> int:
        """Returns ``images_per_class``."""
        return images_per_class


class LowRankImages(SyntheticImages):
    r"""Images whose channels are products of two factors, X = A B [1]; zeros at first.

    A has shape ``(N, C, H, r)`` and B ``(N, C, r, W)``; nothing is shared between channels or images, and there is no
    bias, activation or clamp. An image takes ``C r (H + W)`` numbers.

    Args:
        num_images: ``N``.
        channels: ``C``.
        height: ``H``, pixels.
        width: ``W``, pixels.
        rank: ``r``, from 1 to ``min(H, W)``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_images: int, channels: int, height: int, width: int, rank: int) -> None:
        super().__init__(num_images, channels, height, width)
        if not 1 <= rank <= min(height, width):
            raise ValueError(f"rank must be from 1 to the shorter side of the images, {min(height, width)}, got {rank}")
        self.rank = rank
        self.a = nn.Parameter(torch.zeros(num_images, channels, height, rank))
        self.b = nn.Parameter(torch.zeros(num_images, channels, rank, width))

    def images(self, indices: Tensor | slice | None = None) -> Tensor:
        """See :meth:`SyntheticImages.images`; one batched matrix product."""
        a, b = (self.a, self.b) if indices is None else (self.a[indices], self.b[indices])
        return a.float() @ b.float()

    def fill_(self, images: Tensor) -> None:
        """See :meth:`SyntheticImages.fill_`; the closest factors in the mean square, by a truncated SVD.

        With the singular values s of a channel, A = U sqrt(s) and B = sqrt(s) V^T.
        """
        with torch.no_grad():
            left, values, right = torch.linalg.svd(self._fits(images).to(self.a.device).float(), full_matrices=False)
            root = values[..., : self.rank].sqrt()
            self.a.copy_(left[..., : self.rank] * root[..., None, :])
            self.b.copy_(root[..., None] * right[..., : self.rank, :])

    def equivalent_images_per_class(self, images_per_class: int, *, rounding: Rounding = "total") -> int:
        """See :func:`equivalent_images_per_class`."""
        return equivalent_images_per_class(images_per_class, *self.shape[2:], self.rank, rounding=rounding)


class CondensedSet:
    """Condensed images and their labels.

    Args:
        storage: the images.
        targets: int64 tensor of shape ``(N,)``, class labels.
        mean: of each channel, in pixels of [0, 1], by which the images were normalized; for pictures only.
        std: standard deviation of each channel, likewise.
        metadata: what else is to be kept: settings, seed, ``"lr"`` of trajectory matching; values as in JSON.

    Raises:
        ValueError: if numbers of images, labels and channels do not agree.
        TypeError: if ``targets`` is not an int64 tensor.
    """

    def __init__(
        self,
        storage: SyntheticImages,
        targets: Tensor,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if targets.dtype != torch.int64:
            raise TypeError(f"targets must be an int64 tensor of class labels, got {targets.dtype}")
        if targets.shape != (len(storage),):
            raise ValueError(
                f"targets must hold one label per image, shape ({len(storage)},), got {tuple(targets.shape)}"
            )
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != storage.shape[1]:
                raise ValueError(
                    f"{name} must hold a number for each of {storage.shape[1]} channels, got {len(values)}"
                )
        self.storage = storage
        self.targets = targets
        self.mean = None if mean is None else tuple(map(float, mean))
        self.std = None if std is None else tuple(map(float, std))
        self.metadata = dict(metadata or {})

    def __len__(self) -> int:
        return len(self.storage)

    def __repr__(self) -> str:
        return f"CondensedSet({type(self.storage).__name__}{self.storage.shape}, {self.nbytes} bytes)"

    @torch.no_grad()
    def images(self, indices: Tensor | slice | None = None) -> Tensor:
        """Decodes images, without a graph: float32 of shape ``(B, C, H, W)``, normalized.

        Args:
            indices: which: an int64 tensor of shape ``(B,)``, or a slice. Default: all.
        """
        return self.storage.images(indices).detach()

    @torch.no_grad()
    def pictures(self, indices: Tensor | slice | None = None) -> Tensor:
        """Decodes images for the eye: pixels in [0, 1].

        They are mapped back by ``mean`` and ``std``, or, where these are not known, from the range of all images.
        """
        images = self.images(indices)
        if self.mean is None or self.std is None:
            low, high = images.aminmax()
            return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images * std + mean).clamp(0.0, 1.0)

    @property
    def numel(self) -> int:
        """Stored numbers, without the labels."""
        return self.storage.numel

    @property
    def nbytes(self) -> int:
        """Bytes of images and labels as stored; a file has a header of some hundred bytes more."""
        return self.storage.nbytes + self.targets.nbytes

    def half(self) -> CondensedSet:
        """Returns the set in half precision: half the bytes, and images to about three digits."""
        return self._with({name: tensor.detach().half() for name, tensor in self.storage.state_dict().items()})

    def select(self, indices: Tensor | slice) -> CondensedSet:
        """Returns the images at ``indices`` as a set of their own."""
        tensors = {name: tensor[indices].clone() for name, tensor in self.storage.state_dict().items()}
        return self._with(tensors, self.targets[indices].clone())

    def select_classes(self, classes: Iterable[int]) -> CondensedSet:
        """Returns the images of some classes, in the order of this set.

        Raises:
            ValueError: if there is no image of a class.
        """
        wanted = torch.tensor(list(classes), dtype=torch.int64, device=self.targets.device)
        matches = self.targets[:, None] == wanted
        if not matches.any(dim=0).all():
            missing = wanted[~matches.any(dim=0)].tolist()
            raise ValueError(f"classes must be among {sorted(set(self.targets.tolist()))}, got {missing}")
        return self.select(matches.any(dim=1).nonzero().flatten())

    @staticmethod
    def concat(sets: Sequence[CondensedSet]) -> CondensedSet:
        """Joins sets of the same kind of storage, sizes and precision; what is kept beside them is that of the first.

        Raises:
            ValueError: if there is none, or they differ.
        """
        if not sets:
            raise ValueError("sets is empty, expected at least one")
        states = [each.storage.state_dict() for each in sets]
        kinds = {
            (type(each.storage), *((tensor.shape[1:], tensor.dtype) for tensor in state.values()))
            for each, state in zip(sets, states, strict=True)
        }
        if len(kinds) > 1:
            raise ValueError(
                f"sets must store images of one kind, size and precision, got {', '.join(map(repr, sets))}"
            )
        tensors = {name: torch.cat([state[name] for state in states]) for name in states[0]}
        return sets[0]._with(tensors, torch.cat([each.targets for each in sets]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, atomically: factors or pixels, labels, and a JSON header with the rest."""
        header = {"mean": self.mean, "std": self.std, "metadata": self.metadata}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.storage.state_dict().items()}
        tensors["targets"] = self.targets.cpu().contiguous()
        with atomic_path(path) as partial:
            save_file(tensors, partial, metadata={"format": _FORMAT, "header": json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CondensedSet:
        """Reads a file of :meth:`save`, onto the CPU.

        Raises:
            ValueError: if it is not such a file.
        """
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                info = file.metadata() or {}
                # The reader has keys(), but cannot be iterated over itself.
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a file of a condensed set: {error}") from None
        if info.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is not a file of a condensed set: expected format {_FORMAT}, got {info.get('format')}"
            )
        targets = tensors.pop("targets")
        return cls(_storage(tensors), targets, **json.loads(info["header"]))

    @classmethod
    def load_authors(
        cls, path: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None, run: int = 0
    ) -> CondensedSet:
        """Reads a result file (``.pt``) of the authors of DC, DSA, DM, MTT or [1], which holds pixels.

        Only tensors, containers and numbers are read; no other object is ever made of the file.

        Args:
            path: a file of runs (``{"data": [[images, labels], ...], ...}``), of one pair, or of images only (MTT).
            labels: the file of the labels, where ``path`` holds images only.
            run: which of the runs.

        Raises:
            ValueError: if the file holds anything else.
        """
        content = _load_tensors(path)
        if isinstance(content, dict) and "data" in content:
            runs = content["data"]
            if not 0 <= run < len(runs):
                raise ValueError(f"run must be below the number of runs in {path}, {len(runs)}, got {run}")
            content = runs[run]
        if isinstance(content, Tensor) and labels is not None:
            content = (content, _load_tensors(labels))
        if not (
            isinstance(content, (tuple, list)) and len(content) == 2 and all(isinstance(x, Tensor) for x in content)
        ):
            raise ValueError(f"{path} must hold images and labels, or images with their labels in another file")
        images, targets = content
        if images.dim() != 4 or targets.shape != images.shape[:1]:
            raise ValueError(
                f"{path} must hold images (N, C, H, W) and labels (N,), got shapes {tuple(images.shape)} and "
                f"{tuple(targets.shape)}"
            )
        return cls(_storage({"pixels": images.detach().float()}), targets.long(), metadata={"source": Path(path).name})

    def _with(self, tensors: dict[str, Tensor], targets: Tensor | None = None) -> CondensedSet:
        targets = self.targets if targets is None else targets
        return CondensedSet(_storage(tensors), targets, mean=self.mean, std=self.std, metadata=self.metadata)


def _storage(tensors: Mapping[str, Tensor]) -> SyntheticImages:
    """Returns the module of a state dictionary."""
    storage: SyntheticImages
    if set(tensors) == {"pixels"}:
        count, channels, height, width = tensors["pixels"].shape
        storage = PixelImages(count, channels, height, width)
    elif set(tensors) == {"a", "b"}:
        count, channels, height, rank = tensors["a"].shape
        storage = LowRankImages(count, channels, height, tensors["b"].shape[3], rank)
    else:
        raise ValueError(f"condensed images are stored as 'pixels' or as 'a' and 'b', got {sorted(tensors)}")
    storage.load_state_dict(tensors, assign=True)
    return storage


def _load_tensors(path: str | os.PathLike[str]) -> Any:
    # The accuracies in these files are NumPy scalars: numbers of a given type, which run nothing when they are made.
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [np.dtype, type(np.dtype(np.float64))]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # NumPy 1 and 2
    with torch.serialization.safe_globals(allowed):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is not a file of tensors: {str(error).splitlines()[0]}") from None
