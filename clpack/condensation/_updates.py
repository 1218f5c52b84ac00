"""One update of synthetic images, by each of the methods: what changes the images and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ._draws import Draws
from .augmentation import augment
from .evaluate import train_pass
from .images import SyntheticImages
from .matching import distribution_distance, gradient_distance
from .trajectories import ExpertBuffer, trajectory_distance

if TYPE_CHECKING:
    from .condense import Settings

_STATISTICS_BATCH = 16  # real images of each class that set the statistics of batch normalization


class RealImages:
    """The real images and which of them belong to each class that is condensed."""

    def __init__(self, images: Tensor, targets: Tensor, classes: Sequence[int], device: torch.device) -> None:
        self.images = images.detach()
        self.classes = list(classes)
        self.device = device
        order = targets.cpu().argsort(stable=True)
        labels, counts = targets.cpu().unique(return_counts=True)
        members = dict(zip(labels.tolist(), order.split(counts.tolist()), strict=True))
        self.members = [members[label] for label in self.classes]

    def batch(self, indices: Tensor) -> Tensor:
        return self.images[indices.to(self.images.device, non_blocking=True)].to(self.device, non_blocking=True)


class _Update(ABC):
    """Common to the methods: the images, ``count`` for each class in turn, and their optimizer."""

    def __init__(self, real: RealImages, storage: SyntheticImages, settings: Settings, draws: Draws) -> None:
        self.real = real
        self.storage = storage
        self.settings = settings
        self.draws = draws
        self.count = len(storage) // len(real.classes)
        self.targets = torch.tensor(real.classes, device=real.device).repeat_interleave(self.count)
        self.parameters = list(storage.parameters())
        self.optimizers = [torch.optim.SGD(self.parameters, lr=settings.lr_img, momentum=settings.momentum)]

    def rows(self, first: int, last: int) -> slice:
        """Images of the classes at positions ``first`` to ``last - 1``."""
        return slice(first * self.count, last * self.count)

    @abstractmethod
    def update(self, iteration: int) -> Tensor:
        """Makes the update of an iteration; returns the loss, a scalar on the device."""


class GradientMatching(_Update):
    """DC and DSA: gradients on synthetic images are to be those on real ones, class by class."""

    def update(self, iteration: int) -> Tensor:
        settings, classes = self.settings, self.real.classes
        network = self.draws.network(iteration)
        parameters = list(network.parameters())
        optimizer = torch.optim.SGD(parameters, lr=settings.lr_net)
        normalizations = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        outer_loops, inner_loops = settings.loops
        total = torch.zeros((), device=self.real.device)
        for outer in range(outer_loops):
            if normalizations:
                self._set_statistics(network, iteration, outer)
                for module in normalizations:
                    module.eval()
            self.optimizers[0].zero_grad()
            for position in range(len(classes)):
                total += self._match_class(network, parameters, position, iteration, outer)
            self.optimizers[0].step()
            if outer == outer_loops - 1:
                break
            images, targets = self.storage.images().detach(), self.targets
            for inner in range(inner_loops):
                names = ("training", iteration, outer, inner)
                train_pass(
                    network,
                    optimizer,
                    images,
                    targets,
                    self.draws.order(len(images), *names),
                    settings.batch_train,
                    settings.augmentation,
                    generator=self.draws.generator("augmentation", *names),
                )
        return total / (len(classes) * outer_loops)

    def _match_class(
        self, network: nn.Module, parameters: Sequence[Tensor], position: int, iteration: int, outer: int
    ) -> Tensor:
        """Adds the gradient of the distance of one class to those of the images."""
        label = self.real.classes[position]
        names = (iteration, outer, label)
        real = self.real.batch(self.draws.real(self.real.members[position], self.settings.batch_real, *names))
        synthetic = self.storage.images(self.rows(position, position + 1))
        drawn = self.draws.augmentation(self.settings.augmentation, real.shape, *names)
        real, synthetic = (augment(x, self.settings.augmentation, params=drawn) for x in (real, synthetic))
        grads_real = self.real_gradients(network, parameters, real, label)
        loss = F.cross_entropy(network(synthetic), _labels(synthetic, label))
        grads_syn = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = gradient_distance(grads_syn, grads_real, metric=self.settings.metric)
        distance.backward(inputs=self.parameters)
        return distance.detach()

    def real_gradients(
        self, network: nn.Module, parameters: Sequence[Tensor], images: Tensor, label: int
    ) -> list[Tensor]:
        """Returns the gradients of the mean loss on real images of a class, computed in pieces."""
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        for piece in images.split(self.settings.piece_size):
            loss = F.cross_entropy(network(piece), _labels(piece, label), reduction="sum") / len(images)
            torch._foreach_add_(gradients, torch.autograd.grad(loss, parameters))
        return gradients

    def _set_statistics(self, network: nn.Module, iteration: int, outer: int) -> None:
        network.train()
        chosen = [
            self.draws.real(members, _STATISTICS_BATCH, "statistics", iteration, outer, label)
            for members, label in zip(self.real.members, self.real.classes, strict=True)
        ]
        with torch.no_grad():
            network(self.real.batch(torch.cat(chosen)))


class DistributionMatching(_Update):
    """DM: mean embeddings of synthetic images are to be those of real ones.

    Without batch normalization classes are independent, and any number of them may be computed at a time.
    """

    def __init__(self, real: RealImages, storage: SyntheticImages, settings: Settings, draws: Draws) -> None:
        super().__init__(real, storage, settings, draws)
        self._index = -1
        self._features: Callable[[Tensor], Tensor]
        self._drawn: list[dict[str, Any]] = []
        self._means = torch.empty(0)
        self._together = False

    def update(self, iteration: int) -> Tensor:
        index = iteration // self.settings.network_reuse
        if index != self._index:
            self._take_network(index)
        num_classes = len(self.real.classes)
        step = num_classes if self._together else max(1, self.settings.piece_size // self.count)
        total = torch.zeros((), device=self.real.device)
        self.optimizers[0].zero_grad()
        for first in range(0, num_classes, step):
            last = min(first + step, num_classes)
            synthetic = self._augment(self.storage.images(self.rows(first, last)).split(self.count), first)
            features = self._features(synthetic).view(last - first, self.count, -1)
            distance = distribution_distance(self._means[first:last, None], features).sum()
            distance.backward(inputs=self.parameters)
            total += distance.detach()
        self.optimizers[0].step()
        return total / num_classes

    def _take_network(self, index: int) -> None:
        """Draws the network, the augmentation and the real images, and computes what they are matched to."""
        network = self.draws.network(index).requires_grad_(False)
        features = getattr(network, "features", None)
        if features is None:
            raise ValueError("network must have features, the embedding of images, for method='dm'")
        self._features = lambda images: features(images).flatten(1)
        self._together = any(isinstance(module, _BatchNorm) for module in network.modules())
        classes, settings = self.real.classes, self.settings
        shape = (1, *self.storage.shape[1:])
        self._drawn = [self.draws.augmentation(settings.augmentation, shape, index, label) for label in classes]
        step = len(classes) if self._together else max(1, settings.piece_size // settings.batch_real)
        with torch.no_grad():
            groups = [self._real_means(index, first, step) for first in range(0, len(classes), step)]
        self._means = torch.cat(groups)
        self._index = index

    def _real_means(self, index: int, first: int, step: int) -> Tensor:
        """Returns the mean embedding of each of ``step`` classes, shape ``(step, D)``."""
        classes, members = self.real.classes[first : first + step], self.real.members[first : first + step]
        batches = [
            self.real.batch(self.draws.real(each, self.settings.batch_real, index, label))
            for each, label in zip(members, classes, strict=True)
        ]
        images = self._augment(batches, first)
        pieces = [images] if self._together else images.split(self.settings.piece_size)
        shares = torch.block_diag(*(images.new_full((1, len(batch)), 1 / len(batch)) for batch in batches))
        size = len(images) if self._together else self.settings.piece_size
        parts = (share @ self._features(piece) for share, piece in zip(shares.split(size, 1), pieces, strict=True))
        means: Tensor = next(parts)
        for part in parts:
            means += part
        return means

    def _augment(self, batches: Sequence[Tensor], first: int) -> Tensor:
        """Augments the batch of each class as was drawn for it, and joins them."""
        strategy, drawn = self.settings.augmentation, self._drawn[first:]
        return torch.cat([augment(x, strategy, params=params) for x, params in zip(batches, drawn, strict=False)])


class TrajectoryMatching(_Update):
    """MTT: training on synthetic images is to lead to where training on real ones led an expert.

    Attributes:
        lr: the learning rate on the synthetic images, learned with them; not kept positive.
    """

    def __init__(
        self,
        real: RealImages,
        storage: SyntheticImages,
        settings: Settings,
        draws: Draws,
        experts: ExpertBuffer,
    ) -> None:
        super().__init__(real, storage, settings, draws)
        self.experts = experts
        self.lr = nn.Parameter(torch.tensor(settings.lr_teacher, device=real.device))
        self.optimizers.append(torch.optim.SGD([self.lr], lr=settings.lr_lr, momentum=settings.momentum))
        self._network = draws.network(0)
        self._shapes = {name: parameter.shape for name, parameter in self._network.named_parameters()}
        size = sum(shape.numel() for shape in self._shapes.values())
        if experts.num_parameters != size:
            raise ValueError(
                f"network must be that of the experts, with {experts.num_parameters} parameters, has {size}"
            )
        if experts.num_epochs < settings.trajectory_epochs:
            raise ValueError(
                f"max_start_epoch={settings.max_start_epoch} and expert_epochs={settings.expert_epochs} need experts "
                f"of {settings.trajectory_epochs} epochs, got {experts.num_epochs}"
            )
        self._order = draws.order(len(experts), "experts")

    def update(self, iteration: int) -> Tensor:
        settings, device = self.settings, self.real.device
        expert = int(self._order[iteration % len(self.experts)])
        epoch = self.draws.start_epoch(settings.max_start_epoch, iteration)
        start = self.experts.parameters(expert, epoch).to(device, non_blocking=True)
        target = self.experts.parameters(expert, epoch + settings.expert_epochs).to(device, non_blocking=True)
        images, targets = self.storage.images(), self.targets
        student = start.clone().requires_grad_()
        for step, rows in enumerate(self._batches(len(images), iteration)):
            generator = self.draws.generator("augmentation", iteration, step)
            rows = rows.to(device, non_blocking=True)
            batch = augment(images[rows], settings.augmentation, generator=generator, siamese=False)
            loss = F.cross_entropy(functional_call(self._network, self._split(student), batch), targets[rows])
            (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
            student = student - self.lr * gradient
        distance = trajectory_distance(student, target, start)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        distance.backward(inputs=[*self.parameters, self.lr])
        for optimizer in self.optimizers:
            optimizer.step()
        return distance.detach()

    def _batches(self, count: int, iteration: int) -> Iterator[Tensor]:
        """Yields the mini-batches of all steps: those of a shuffled set from the last to the first, then anew."""
        batches: list[Tensor] = []
        for step in range(self.settings.syn_steps):
            if not batches:
                order = self.draws.order(count, "order", iteration, step)
                batches = list(order.split(self.settings.batch_syn or count))
            yield batches.pop()

    def _split(self, parameters: Tensor) -> dict[str, Tensor]:
        parts = parameters.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}


Updater = GradientMatching | DistributionMatching | TrajectoryMatching


def _labels(images: Tensor, label: int) -> Tensor:
    return torch.full(images.shape[:1], label, dtype=torch.int64, device=images.device)
