"""Training networks on condensed sets: the evaluation protocol of the condensation papers.

References:
    [1] B. Zhao, K. R. Mopuri, H. Bilen. Dataset Condensation with Gradient Matching. ICLR 2021, arXiv:2006.05929.
        Authors' code: github.com/VICO-UoE/DatasetCondensation (MIT).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clpack._checks import check_labeled_images
from clpack.randomness import generator_for

from ._draws import Network, network_factory, random_network
from .augmentation import augment, dc_augment

__all__ = ["Evaluation", "classification_accuracy", "evaluate", "train_network"]

Family = Literal["dsa", "dc"]


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies of networks that were trained on a set.

    Attributes:
        accuracies: of each network, in [0, 1].
    """

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Population standard deviation over the networks, as in [1]."""
        return statistics.pstdev(self.accuracies)


def evaluate(
    images: Tensor,
    targets: Tensor,
    test_images: Tensor,
    test_targets: Tensor,
    *,
    network: Network = "ConvNet",
    num_networks: int = 20,
    epochs: int = 1000,
    lr: float = 0.01,
    batch_size: int = 256,
    augmentation: str = "none",
    family: Family = "dsa",
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Trains new random networks on a set of images and tests each of them once, after its last epoch [1].

    Args:
        images: float tensor of shape ``(N, C, H, W)``, normalized; a :class:`CondensedSet` gives them by ``images()``.
        targets: int64 tensor of shape ``(N,)``.
        test_images: float tensor of shape ``(M, C, H, W)``, normalized in the same way.
        test_targets: int64 tensor of shape ``(M,)``.
        network: one of :data:`clpack.models.EVALUATION_NETWORKS`, or a function that builds a network. For
            cross-architecture results call this function for each name of a pool in
            :data:`clpack.models.EVALUATION_POOLS`.
        num_networks: how many networks; [1] takes 20 for each condensed set.
        epochs: see :func:`train_network`; [1] takes 1000 with augmentation and 300 without.
        lr: see :func:`train_network`; for sets of trajectory matching ``metadata["lr"]``.
        batch_size: see :func:`train_network`.
        augmentation: see :func:`train_network`.
        family: see :func:`train_network`.
        seed: of weights, orders and augmentation; each network has streams of its own.
        device: where to train. Default: where ``images`` are.

    Raises:
        ValueError: if a shape or an option is wrong.
        TypeError: if a tensor is of the wrong type.
    """
    _check_pair("images", images, "targets", targets)
    _check_pair("test_images", test_images, "test_targets", test_targets)
    if images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"test_images must have the shape of images, {tuple(images.shape[1:])}, got {tuple(test_images.shape[1:])}"
        )
    if num_networks < 1:
        raise ValueError(f"num_networks must be at least 1, got {num_networks}")
    device = torch.device(images.device if device is None else device)
    images, targets = images.detach().to(device), targets.to(device)
    num_classes = int(max(targets.max(), test_targets.max())) + 1
    factory = network_factory(network, num_classes, images.shape)
    accuracies = []
    for index in range(num_networks):
        trained = random_network(factory, device, seed, "evaluation", index)
        train_network(
            trained,
            images,
            targets,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            augmentation=augmentation,
            family=family,
            generator=generator_for(seed, "evaluation", index),
        )
        accuracies.append(classification_accuracy(trained, test_images, test_targets))
    return Evaluation(tuple(accuracies))


def train_network(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 256,
    augmentation: str = "none",
    family: Family = "dsa",
    generator: torch.Generator,
) -> Tensor:
    """Trains a network as [1] does on condensed sets, in place.

    There are ``epochs + 1`` passes of SGD with cross-entropy over the shuffled set. After the pass with number
    ``epochs // 2 + 1``, counted from 0, the learning rate falls to a tenth and the momentum starts anew.

    Args:
        network: on the device of the images; it is left in training mode.
        images: float tensor of shape ``(N, C, H, W)``, normalized.
        targets: int64 tensor of shape ``(N,)``.
        epochs: see above.
        lr: first learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        batch_size: images of a mini-batch.
        augmentation: strategy of :func:`augment`, here with parameters for each image, or of :func:`dc_augment`.
        family: which of the two, ``"dsa"`` or ``"dc"``.
        generator: of orders and augmentation; on the CPU.

    Returns:
        Tensor of shape ``(epochs + 1, 2)``: mean loss and accuracy on the mini-batches of each pass, before each step.

    Raises:
        ValueError: if an option is out of range.
    """
    for name, value in (("epochs", epochs + 1), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is too small, got {value - (name == 'epochs')}")
    if family not in get_args(Family):
        raise ValueError(f"family must be 'dsa' or 'dc', got {family!r}")

    def new_optimizer(lr: float) -> torch.optim.SGD:
        return torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)

    optimizer, curve = new_optimizer(lr), []
    for epoch in range(epochs + 1):
        order = torch.randperm(len(images), generator=generator)
        curve.append(
            train_pass(network, optimizer, images, targets, order, batch_size, augmentation, family, generator)
        )
        if epoch == epochs // 2 + 1:
            optimizer = new_optimizer(lr * 0.1)
    return torch.stack(curve)


def train_pass(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    order: Tensor,
    batch_size: int,
    augmentation: str = "none",
    family: Family = "dsa",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Trains on mini-batches in the given order once; returns mean loss and accuracy, shape ``(2,)``, on the device."""
    network.train()
    device = next(network.parameters()).device
    sums = torch.zeros(2, device=device)
    for rows in order.to(images.device, non_blocking=True).split(batch_size):
        batch, labels = (each[rows].to(device, non_blocking=True) for each in (images, targets))
        if augmentation != "none":
            if family == "dsa":
                batch = augment(batch, augmentation, generator=generator, siamese=False)
            else:
                batch = dc_augment(batch, augmentation, generator=generator)
        logits = network(batch)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            sums += torch.stack([loss.detach() * len(rows), (logits.argmax(1) == labels).sum()])
    return sums / len(order)


@torch.no_grad()
def classification_accuracy(network: nn.Module, images: Tensor, targets: Tensor, *, batch_size: int = 256) -> float:
    """Returns the share of images that the network classifies correctly, in evaluation mode; its mode is kept.

    Args:
        network: maps images to logits.
        images: float tensor of shape ``(N, C, H, W)``, moved to the device of the network batch by batch.
        targets: int64 tensor of shape ``(N,)``.
        batch_size: images at a time.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for batch, labels in zip(images.split(batch_size), targets.split(batch_size), strict=True):
        correct += (network(batch.to(device)).argmax(1) == labels.to(device)).sum()
    network.train(training)
    return correct.item() / len(images)


def _check_pair(images_name: str, images: Tensor, targets_name: str, targets: Tensor) -> None:
    expected = "one floating-point tensor of shape (N, C, H, W), normalized (resize images of several sizes first)"
    if isinstance(images, list | tuple) and all(isinstance(image, Tensor) for image in images):
        shapes = ", ".join(map(str, sorted({tuple(image.shape) for image in images})))
        raise TypeError(f"{images_name} must be {expected}, got {type(images).__name__} of images of shape {shapes}")
    check_labeled_images(
        images,
        targets,
        expected=expected,
        names=(images_name, targets_name),
    )
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"{images_name} must have shape (N, C, H, W) with N > 0, got {tuple(images.shape)}")
    if int(targets.min()) < 0:
        raise ValueError(f"{targets_name} must not be negative, got {int(targets.min())}")
