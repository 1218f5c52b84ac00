"""Where the images of a condensed memory come from: condensation, a set made before, or the samples themselves."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from clpack.condensation import (
    CondensedSet,
    ExpertBuffer,
    LowRankImages,
    PixelImages,
    Progress,
    Settings,
    condense,
    gradient_loops,
)
from clpack.condensation._draws import Network, network_factory, random_network, try_network
from clpack.condensation.trajectories import ExpertsOnDemand
from clpack.randomness import generator_for

from ._images import Group, read_images, task_labels

__all__ = [
    "Condensation",
    "RawSamples",
    "ReadyMade",
    "Request",
    "Source",
    "experts_folder",
    "herding_order",
    "progress_file",
]


@dataclass(frozen=True)
class Request:
    """What images are wanted.

    Attributes:
        experience: of which experience.
        groups: its classes, and how many samples each has.
        count: how many images of each class; None for all of a set.
        images_per_class: the memory of a class in plain images, if it is given so.
        num_classes: outputs of networks.
        device: where to work.
        folder: for what is needed to go on after an interruption; None for none.
    """

    experience: Any
    groups: Mapping[Group, int]
    count: int | None
    images_per_class: int | None
    num_classes: int
    device: torch.device
    folder: Path | None

    def file(self, name: Callable[[int, str], str], part: str) -> Path | None:
        """Returns where a file of a part of the experience lies, if there is a folder."""
        return None if self.folder is None else self.folder / name(self.experience.current_experience, part)


class Source(ABC):
    """Gives the images of classes when they come."""

    @abstractmethod
    def one_image(self, shape: Sequence[int]) -> CondensedSet:
        """Returns an image of shape ``(C, H, W)`` as images are stored, of any content."""

    @abstractmethod
    def take(self, request: Request) -> dict[Group, CondensedSet]:
        """Returns the images of each class, on the CPU."""

    def count(self, images_per_class: int, shape: Sequence[int]) -> int:
        """Returns how many images fit into the memory of ``images_per_class`` plain ones."""
        return self.one_image(shape).storage.equivalent_images_per_class(images_per_class)

    def nbytes(self, condensed: CondensedSet) -> int:
        """Returns the bytes of images and labels."""
        return condensed.nbytes

    def check(self, shape: Sequence[int], classes: Mapping[Group, int], count: int | None) -> None:
        """Raises ``ValueError`` if there cannot be such images.

        Args:
            shape: of an image.
            classes: those of the stream, as far as they are known, and how many samples each has.
            count: how many images of each class, where that does not depend on the number of classes.
        """
        self.one_image(shape)

    # Not abstract, although it does nothing: samples chosen at random and sets made before need no network.
    def try_network(self, shape: Sequence[int], num_classes: int) -> None:  # noqa: B027
        """Raises ``ValueError`` if the network has not what is needed, or cannot take images of a shape."""


class Condensation(Source):
    """Condenses them.

    Args:
        settings: of the condensation, but for the number of images.
        options: those of the settings that are not left to the method.
        network: see :func:`clpack.condensation.condense`.
        half: whether numbers are stored in half precision.
        callbacks: of :func:`clpack.condensation.condense`.
        experts: options of :func:`clpack.condensation.train_experts` for MTT; the others follow from the settings.
        arguments: others of :func:`clpack.condensation.condense`.
    """

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, Any],
        *,
        network: Network,
        half: bool,
        callbacks: Sequence[Callable[[Progress], None]],
        experts: Mapping[str, Any],
        arguments: Mapping[str, Any],
    ) -> None:
        self.settings = settings
        self.options = options
        self.network = network
        self.half = half
        self.callbacks = callbacks
        self.experts = experts
        self.arguments = arguments
        self._normalizes_batches = False  # whether the network does, by which classes depend on each other

    def one_image(self, shape: Sequence[int]) -> CondensedSet:
        """See :meth:`Source.one_image`."""
        channels, height, width = shape
        rank, mean, std = self.settings.rank, self.arguments["mean"], self.arguments["std"]
        storage = (
            PixelImages(1, channels, height, width) if rank is None else LowRankImages(1, channels, height, width, rank)
        )
        return self._stored(CondensedSet(storage, torch.zeros(1, dtype=torch.int64), mean=mean, std=std))

    def count(self, images_per_class: int, shape: Sequence[int]) -> int:
        """See :meth:`Source.count`."""
        if self.settings.keep_ipc:
            return images_per_class
        storage = self.one_image(shape).storage
        return storage.equivalent_images_per_class(images_per_class, rounding=self.settings.rounding)

    def check(self, shape: Sequence[int], classes: Mapping[Group, int], count: int | None) -> None:
        """See :meth:`Source.check`."""
        super().check(shape, classes, count)
        for (_, label), size in classes.items():
            if self.settings.init != "noise" and count is not None and size < count:
                raise ValueError(
                    f"init={self.settings.init!r} needs {count} samples of each class for as many images, class "
                    f"{label} has {size}; use init='noise' or a smaller budget"
                )

    def try_network(self, shape: Sequence[int], num_classes: int) -> None:
        """See :meth:`Source.try_network`."""
        network = try_network(self.network, num_classes, shape, embeds=self.settings.method == "dm")
        self._normalizes_batches = any(isinstance(module, _BatchNorm) for module in network.modules())

    def take(self, request: Request) -> dict[Group, CondensedSet]:
        """See :meth:`Source.take`."""
        images, targets = read_images(request.experience.dataset)
        tasks = task_labels(request.experience.dataset)
        current = request.experience.current_experience
        made: dict[Group, CondensedSet] = {}
        for number, part in enumerate(self._parts(request)):
            task, labels = part[0][0], [label for _, label in part]
            rows = (tasks == task) & torch.isin(targets, torch.tensor(labels))
            name = f"experience_{current:03d}_task_{task}" + (f"_class_{labels[0]}" if len(part) == 1 else "")
            images_of, targets_of = images[rows], targets[rows]
            with self._experts_of(request, images_of, targets_of, f"{number:03d}") as experts:
                condensed = condense(
                    images_of,
                    targets_of,
                    method=self.settings.method,
                    rank=self.settings.rank,
                    network=self.network,
                    num_classes=request.num_classes,
                    experts=experts,
                    device=request.device,
                    checkpoint=request.file(progress_file, f"{number:03d}"),
                    callbacks=[_for_part(callback, name) for callback in self.callbacks],
                    **self.arguments,
                    **self._amount(request, part, images.shape[1:]),
                )
            made |= {group: self._stored(condensed.select_classes([group[1]])) for group in part}
        return made

    @contextlib.contextmanager
    def _experts_of(
        self, request: Request, images: Tensor, targets: Tensor, part: str
    ) -> Iterator[ExpertBuffer | None]:
        """Yields the experts of some classes, if the method has any; they go when the classes are condensed.

        None is trained when a resumed condensation is found complete; the experts may be gone by then.

        Of the epochs that the authors train them for, those that are never looked at are left out.
        """
        if self.settings.method != "mtt":
            yield None
            return
        augmentation, folder = self.settings.augmentation, request.file(experts_folder, part)
        plain = augmentation == "none"  # then experts are trained with that of DC, as in the authors' code
        with tempfile.TemporaryDirectory() if folder is None else contextlib.nullcontext(folder) as where:
            yield ExpertsOnDemand(
                images,
                targets,
                where,
                epochs=self.settings.trajectory_epochs,
                network=self.network,
                num_classes=request.num_classes,
                augmentation="crop_scale_rotate" if plain else augmentation,
                family="dc" if plain else "dsa",
                seed=self.settings.seed,
                device=request.device,
                **self.experts,
            )
        if folder is not None and folder.exists():
            shutil.rmtree(folder)

    def _parts(self, request: Request) -> list[list[Group]]:
        """Returns which classes are condensed together: those of a task, or each alone.

        On a CPU, where nothing is gained by more at a time, DM takes each alone, so that its images are the same to the
        last bit whatever comes with it.
        """
        if self.settings.method == "dm" and not self._normalizes_batches and request.device.type == "cpu":
            return [[group] for group in request.groups]
        tasks = sorted({task for task, _ in request.groups})
        return [[group for group in request.groups if group[0] == task] for task in tasks]

    def _amount(self, request: Request, part: Sequence[Group], shape: Sequence[int]) -> dict[str, Any]:
        """Returns the options of the condensation of some classes, with the number of images."""
        if request.images_per_class is not None:
            return {**self.options, "images_per_class": request.images_per_class}
        assert request.count is not None
        count = request.count
        if self.settings.init != "noise":  # each image begins as another sample
            count = min(count, *(request.groups[group] for group in part))
        loops = gradient_loops(max(1, count * self.one_image(shape).numel // torch.Size(shape).numel()))
        return {"loops": loops, **self.options, "images_per_class": count, "keep_ipc": True}

    def _stored(self, condensed: CondensedSet) -> CondensedSet:
        return _on_cpu(condensed.half() if self.half else condensed)


class ReadyMade(Source):
    """Takes them from a set that was made before, whatever the experiences hold."""

    def __init__(self, condensed: CondensedSet) -> None:
        self.condensed = condensed

    def one_image(self, shape: Sequence[int]) -> CondensedSet:
        """See :meth:`Source.one_image`."""
        return self.condensed.select(slice(0, 1))

    def take(self, request: Request) -> dict[Group, CondensedSet]:
        """See :meth:`Source.take`."""
        return {group: _on_cpu(self.condensed.select_classes([group[1]])) for group in request.groups}

    def check(self, shape: Sequence[int], classes: Mapping[Group, int], count: int | None) -> None:
        """See :meth:`Source.check`."""
        if (found := self.condensed.storage.shape[1:]) != tuple(shape):
            raise ValueError(f"condensed must hold images of the shape of the stream, {tuple(shape)}, got {found}")
        labels = [label for _, label in classes]
        if missing := sorted(set(labels) - set(self.condensed.targets.tolist())):
            raise ValueError(f"condensed must hold images of all classes of the stream, got none of {missing}")
        if len(set(labels)) < len(labels):
            raise ValueError(
                "condensed holds the images of a class once, but several tasks of the stream number their classes "
                "alike; open the stream with class_ids_from_zero_in_each_exp=False"
            )


class RawSamples(Source):
    """Keeps samples of the experience, random ones or by herding, counted as 8-bit images."""

    def __init__(
        self,
        method: Literal["random", "herding"],
        *,
        network: Network,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        seed: int,
    ) -> None:
        self.method = method
        self.network = network
        self.mean = mean
        self.std = std
        self.seed = seed

    def one_image(self, shape: Sequence[int]) -> CondensedSet:
        """See :meth:`Source.one_image`."""
        return self._stored(torch.zeros(1, *shape), 0)

    def nbytes(self, condensed: CondensedSet) -> int:
        """See :meth:`Source.nbytes`."""
        return condensed.numel + condensed.targets.nbytes

    def take(self, request: Request) -> dict[Group, CondensedSet]:
        """See :meth:`Source.take`."""
        images, targets = read_images(request.experience.dataset)
        tasks = task_labels(request.experience.dataset)
        features = self._features(request, images) if self.method == "herding" else None
        kept: dict[Group, CondensedSet] = {}
        for task, label in request.groups:
            rows = ((tasks == task) & (targets == label)).nonzero().flatten()
            count = len(rows) if request.count is None else request.count
            if features is None:
                generator = generator_for(self.seed, "random samples", task, label)
                rows = rows[torch.randperm(len(rows), generator=generator)[:count]]
            else:
                rows = rows[herding_order(features[rows], count)]
            kept[task, label] = self._stored(images[rows], label)
        return kept

    def try_network(self, shape: Sequence[int], num_classes: int) -> None:
        """See :meth:`Source.try_network`."""
        if self.method == "herding":
            try_network(self.network, num_classes, shape, embeds=True)

    def _features(self, request: Request, images: Tensor) -> Tensor:
        """Returns what a random network makes of the images, shape ``(N, D)``, on the CPU."""
        factory = network_factory(self.network, request.num_classes, images.shape)
        network: Any = random_network(factory, request.device, self.seed, "condensed memory").eval()
        with torch.no_grad():
            pieces = [network.features(piece.to(request.device)).flatten(1).cpu() for piece in images.split(256)]
        return torch.cat(pieces)

    def _stored(self, images: Tensor, label: int) -> CondensedSet:
        count, channels, height, width = images.shape
        storage = PixelImages(count, channels, height, width).requires_grad_(False)
        storage.fill_(images)
        targets = torch.full((count,), label, dtype=torch.int64)
        return CondensedSet(storage, targets, mean=self.mean, std=self.std, metadata={"method": self.method})


def herding_order(features: Tensor, count: int) -> Tensor:
    """Returns which samples to take one after the other so that their mean feature stays near that of all.

    It is the greedy choice of iCaRL (S. Rebuffi et al., CVPR 2017) and of Avalanche's ``HerdingSelectionStrategy``.

    Args:
        features: floating-point tensor of shape ``(N, D)``.
        count: how many to take; all, if there are fewer.

    Returns:
        int64 tensor of shape ``(min(N, count),)``.
    """
    center, squares = features.mean(0), features.square().sum(1)
    taken, total = torch.zeros_like(squares), torch.zeros_like(center)
    order = []
    for step in range(1, min(len(features), count) + 1):
        # step^2 ||(total + f) / step - center||^2 but for what is the same for all f
        distances = squares + 2 * (features @ (total - step * center)) + taken
        chosen = distances.argmin()
        order.append(chosen)
        taken[chosen] = torch.inf
        total = total + features[chosen]
    return torch.stack(order)


def progress_file(experience: int, part: str) -> str:
    """Returns the name of the file from which an interrupted condensation of a part of an experience goes on."""
    return f"condensation_{experience:03d}_{part}.safetensors"


def experts_folder(experience: int, part: str) -> str:
    """Returns the name of the folder of the experts that a part of an experience is condensed with."""
    return f"experts_{experience:03d}_{part}"


def _for_part(callback: Callable[[Progress], None], part: str) -> Callable[[Progress], None]:
    """Returns a callback that is also told what is being condensed."""
    return lambda progress: callback(replace(progress, part=part))


def _on_cpu(condensed: CondensedSet) -> CondensedSet:
    """Returns a set with its storage moved to the CPU."""
    storage, targets = condensed.storage.cpu(), condensed.targets.cpu()
    return CondensedSet(storage, targets, mean=condensed.mean, std=condensed.std, metadata=condensed.metadata)
