r"""Training trajectories of experts, and how far a student ends from them.

References:
    [1] G. Cazenavette et al. Dataset Distillation by Matching Training Trajectories (MTT). CVPR 2022, arXiv:2203.11932.
        Authors' code: github.com/GeorgeCazenavette/mtt-distillation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from clpack.files import atomic_path
from clpack.randomness import generator_for

from ._draws import Network, describe_data, describe_network, network_factory, random_network
from .evaluate import Family, _check_pair, train_pass

__all__ = ["ExpertBuffer", "train_experts", "trajectory_distance"]


def trajectory_distance(student: Tensor, target: Tensor, start: Tensor) -> Tensor:
    r"""Returns :math:`\|\theta_N - \theta^*\|^2 / \|\theta_0 - \theta^*\|^2` [1], a scalar.

    Args:
        student: parameters after training on synthetic images, shape ``(P,)``; gradients flow to them.
        target: parameters of the expert some epochs after the start, shape ``(P,)``.
        start: parameters from which both were trained, shape ``(P,)``. If they equal the target, the result is not
            finite.

    Raises:
        ValueError: if the shapes differ.
    """
    if not student.shape == target.shape == start.shape:
        raise ValueError(
            "parameters must be flat vectors of one length, got shapes "
            f"{tuple(student.shape)}, {tuple(target.shape)} and {tuple(start.shape)}"
        )
    return (student - target).square().sum() / (start - target).square().sum()


class ExpertBuffer:
    """Trajectories in a folder, as :func:`train_experts` writes them; parameters are read when they are needed.

    Args:
        folder: holds ``expert_0000.safetensors`` and so on.
        num_experts: how many of them, from the first on. Default: None, all.

    Attributes:
        num_epochs: epochs of each expert.
        num_parameters: length ``P`` of its parameters.
        settings: what the experts were trained with, as values of JSON; several if they differ.

    Raises:
        ValueError: if there is none, there are fewer than ``num_experts``, or they do not fit together.
    """

    def __init__(self, folder: str | os.PathLike[str], num_experts: int | None = None) -> None:
        self.paths = sorted(Path(folder).glob("expert_*.safetensors"))
        if not self.paths:
            raise ValueError(f"folder {os.fspath(folder)} holds no expert_*.safetensors; make them with train_experts")
        if num_experts is not None:
            if not 1 <= num_experts <= len(self.paths):
                raise ValueError(
                    f"num_experts must be from 1 to {len(self.paths)}, the experts in {os.fspath(folder)}, got "
                    f"{num_experts}; train more of them with train_experts"
                )
            self.paths = self.paths[:num_experts]
        shapes = {path.name: self._shape(path) for path in self.paths}
        self.num_epochs, self.num_parameters = shapes[self.paths[0].name]
        self.num_epochs -= 1
        if len(set(shapes.values())) > 1:
            raise ValueError(f"experts of one folder must have the same epochs and parameters, got {shapes}")
        self.settings: list[Any] = []
        for path in self.paths:
            settings = json.loads(_header(path) or "{}")
            settings.pop("expert", None)
            if settings not in self.settings:
                self.settings.append(settings)

    def __len__(self) -> int:
        return len(self.paths)

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """Returns the parameters of an expert after so many epochs, a float32 tensor of shape ``(P,)`` on the CPU."""
        with safe_open(self.paths[expert], framework="pt") as file:
            row: Tensor = file.get_slice("snapshots")[epoch : epoch + 1]
        return row[0]

    @staticmethod
    def _shape(path: Path) -> tuple[int, int]:
        with safe_open(path, framework="pt") as file:
            rows, columns = file.get_slice("snapshots").get_shape()
        return rows, columns


def train_experts(
    images: Tensor,
    targets: Tensor,
    folder: str | os.PathLike[str],
    *,
    num_experts: int = 100,
    epochs: int = 50,
    network: Network = "ConvNet",
    num_classes: int | None = None,
    lr: float = 0.01,
    batch_size: int = 256,
    augmentation: str = "color_crop_cutout_flip_scale_rotate",
    family: Family = "dsa",
    seed: int = 0,
    device: torch.device | str | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> ExpertBuffer:
    """Trains experts on real images and keeps their parameters at the start and after every epoch [1].

    Each expert is a file of ``4 (epochs + 1) P`` bytes for ``P`` parameters, written when it is finished. Experts that
    are there already are kept, so after an interruption the same call goes on; the result is the same bit for bit. The
    first epochs do not depend on how many follow. Files hold no images, but a digest of them.

    Args:
        images: float tensor of shape ``(N, C, H, W)``, normalized.
        targets: int64 tensor of shape ``(N,)``.
        folder: where to; created if it is missing.
        num_experts: how many networks. Others that the folder holds beyond these stay there, and are not used.
        epochs: passes over the images, by SGD without momentum and weight decay.
        network: one of :data:`clpack.models.EVALUATION_NETWORKS`, or a function that builds a network.
        num_classes: outputs of a network that is built by its name. Default: the largest label and one.
        lr: learning rate.
        batch_size: images of a mini-batch.
        augmentation: strategy of :func:`augment` or :func:`dc_augment`, with parameters for each image.
        family: which of the two, ``"dsa"`` or ``"dc"``.
        seed: of weights, orders and augmentation; each expert has streams of its own.
        device: where to train. Default: where ``images`` are.
        callback: called after each epoch with the number of the expert and loss and accuracy of the pass, a tensor of
            shape ``(2,)``.

    Raises:
        ValueError: if an option is out of range, or the folder holds experts of other settings or data.
        TypeError: if a tensor is of the wrong type.
    """
    _check_pair("images", images, "targets", targets)
    for name, value in (("num_experts", num_experts), ("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    device = torch.device(images.device if device is None else device)
    outputs = int(targets.max()) + 1 if num_classes is None else num_classes
    factory = network_factory(network, outputs, images.shape)
    settings = _settings(
        images,
        targets,
        factory,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        augmentation=augmentation,
        family=family,
        seed=seed,
    )
    images, targets = images.to(device), targets.to(device)
    for expert in range(num_experts):
        path = Path(folder) / f"expert_{expert:04d}.safetensors"
        header = json.dumps({**settings, "expert": expert}, sort_keys=True)
        if path.exists():
            if (found := _header(path)) != header:
                raise ValueError(f"{path} was trained with {found}, not with {header}; choose another folder")
            continue
        trained = random_network(factory, device, seed, "expert", expert)
        generator = generator_for(seed, "expert", expert)
        optimizer = torch.optim.SGD(trained.parameters(), lr=lr)
        snapshots = [flat_parameters(trained)]
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator)
            result = train_pass(trained, optimizer, images, targets, order, batch_size, augmentation, family, generator)
            snapshots.append(flat_parameters(trained))
            if callback is not None:
                callback(expert, result)
        with atomic_path(path) as partial:
            save_file({"snapshots": torch.stack(snapshots)}, partial, metadata={"settings": header})
    return ExpertBuffer(folder, num_experts)


class ExpertsOnDemand(ExpertBuffer):
    """Experts that are trained, all of them, when parameters are asked for first; where none are, nothing is trained.

    Args:
        images: see :func:`train_experts`, like the other arguments.
        targets: see there.
        folder: where to.
        num_experts: how many.
        epochs: of each.
        network: a name or a function.
        num_classes: outputs of a network that is built by its name.
        device: where to train.
        options: ``lr``, ``batch_size``, ``augmentation``, ``family`` and ``seed``.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        folder: str | os.PathLike[str],
        *,
        num_experts: int,
        epochs: int,
        network: Network,
        num_classes: int,
        device: torch.device,
        **options: Any,
    ) -> None:
        factory = network_factory(network, num_classes, images.shape)
        self.paths = []
        self.num_epochs = epochs
        self.num_parameters = len(flat_parameters(random_network(factory, torch.device("cpu"), 0)))
        self.settings = [_settings(images, targets, factory, epochs=epochs, **options)]
        self._num_experts = num_experts
        self._train = partial(
            train_experts,
            images,
            targets,
            folder,
            num_experts=num_experts,
            epochs=epochs,
            network=factory,
            device=device,
            **options,
        )

    def __len__(self) -> int:
        return self._num_experts

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """See :meth:`ExpertBuffer.parameters`."""
        if not self.paths:
            self.paths = self._train().paths
        return super().parameters(expert, epoch)


def flat_parameters(network: nn.Module) -> Tensor:
    """Returns all parameters as one float32 vector on the CPU, in the order of the network."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).float().cpu()


def _settings(images: Tensor, targets: Tensor, factory: Callable[[], nn.Module], **options: Any) -> dict[str, Any]:
    """Returns what the parameters of an expert depend on, but for its number, as values of JSON."""
    return {"data": describe_data(images, targets), "network": describe_network(factory), **options}


def _header(path: Path) -> str | None:
    """Returns what the expert in a file was trained with, as JSON."""
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    return metadata.get("settings")
