"""Condensed images with their labels, and their files.

References:
    [1] E. Yang et al. An Efficient Dataset Condensation Plugin and Its Application to Continual Learning. NeurIPS 2023.
        Authors' code: github.com/EnnengYang/An-Efficient-Dataset-Condensation-Plugin.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clpack.files import atomic_path

from .images import LowRankImages, PixelImages, SyntheticImages

__all__ = ["CondensedSet", "per_channel"]

_FORMAT = "clpack.condensed/1"


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
        TypeError: if ``targets`` is not an int64 tensor, or ``mean`` or ``std`` are not numbers.
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
        self.storage = storage
        self.targets = targets
        self.mean = per_channel("mean", mean)
        self.std = per_channel("std", std)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != storage.shape[1]:
                raise ValueError(
                    f"{name} must hold a number for each of {storage.shape[1]} channels, got {len(values)}"
                )
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

    @property
    def kind(self) -> tuple[Any, ...]:
        """What sets must have in common to be joined: the kind of storage, sizes and precision."""
        tensors = self.storage.state_dict().values()
        return type(self.storage).__name__, *((tuple(tensor.shape[1:]), tensor.dtype) for tensor in tensors)

    def half(self) -> CondensedSet:
        """Returns the set in half precision: half the bytes, and images to about three digits.

        Raises:
            ValueError: if a number is beyond it.
        """
        tensors = {name: tensor.detach().half() for name, tensor in self.storage.state_dict().items()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            largest = max(tensor.abs().max().item() for tensor in self.storage.state_dict().values())
            raise ValueError(
                f"images whose numbers reach {largest:g} cannot be stored in half precision, which ends at 65504; "
                "keep float32, or lower lr_img"
            )
        return self._with(tensors)

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
        """Joins sets of the same kind of storage, sizes and precision.

        Metadata on which they agree are kept; mean and standard deviation are those of the first.

        Raises:
            ValueError: if there is none, or they differ.
        """
        if not sets:
            raise ValueError("sets is empty, expected at least one")
        if len({each.kind for each in sets}) > 1:
            raise ValueError(
                f"sets must store images of one kind, size and precision, got {', '.join(map(repr, sets))}"
            )
        states = [each.storage.state_dict() for each in sets]
        tensors = {name: torch.cat([state[name] for state in states]) for name in states[0]}
        joined = sets[0]._with(tensors, torch.cat([each.targets for each in sets]))
        joined.metadata = _shared([each.metadata for each in sets])
        return joined

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
                names = file.keys()  # the reader itself cannot be iterated over
                tensors = {name: file.get_tensor(name) for name in names}
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


def per_channel(name: str, values: Sequence[float] | None) -> tuple[float, ...] | None:
    """Returns the numbers of the channels, if there are any.

    Raises:
        TypeError: if they are not numbers.
    """
    if values is None:
        return None
    try:
        return tuple(map(float, values))
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold a number for each channel, such as [0.5], got {values!r}") from None


def _shared(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the entries on which all agree, also within mappings."""
    shared: dict[str, Any] = {}
    for name, value in mappings[0].items():
        values: list[Any] = [mapping.get(name) for mapping in mappings]
        if all(isinstance(each, Mapping) for each in values):
            shared[name] = _shared(values)
        elif all(each == value for each in values):
            shared[name] = value
    return shared


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
