"""iCaRL: classification by the nearest mean of stored exemplars, with distillation of the classes seen before.

References:
    [1] S. Rebuffi, A. Kolesnikov, G. Sperl, C. H. Lampert. iCaRL: Incremental Classifier and Representation Learning.
        CVPR 2017, arXiv:1611.07725. Authors' code: github.com/srebuffi/iCaRL.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clpack.modes import evaluation_mode

from ._inversion import evaluation_batches
from ._memory_sources import herding_order
from .data import dataset_field
from .heads import with_head
from .templates import Template

__all__ = ["ICaRL"]

_UNSEEN = -1000.0  # the score of a class without exemplars


class ICaRL(Template):
    """iCaRL [1] on any network of :mod:`clpack.models` and any stream with one head for all classes.

    Each output is trained with the binary cross-entropy: towards the label, or, for classes of earlier experiences,
    towards the sigmoid of the network before the experience, in evaluation mode. Training data are the samples of the
    experience and the exemplars of all classes before. After the experience, as many samples of each of its classes as
    the memory has room for are chosen by herding: the k-th so that the mean feature of the first k is nearest to that
    of all. In evaluation the logits are the cosines between the features of an image and the mean features of the
    exemplars of each class; classes of an experience that is not done have none yet. Features have length 1.

    Avalanche's ``ICaRL`` comes to the same, but that it distills from a network in training mode and lets herding
    choose a sample again, which then counts in the mean but is stored once, as the code of [1] does. It takes the
    network in two parts, and needs a stream of ``nc_benchmark`` and a head of fixed size.

    Args:
        model: a network with ``features``, ``num_features`` and ``linear``, such as :class:`clpack.models.MLP`.
        mem_size: samples stored. Each class has an equal share, rounded up.
        flip: whether the mean features of exemplars are those of the images and their mirror images, as in the code of
            [1]. Turn it off where the mirror image of a class is something else, as for digits.
        criterion: the loss in evaluation. Default: cross-entropy.
        kwargs: the arguments of :class:`Template`.

    Attributes:
        exemplars: by class label, the samples stored, as a dataset, in the order in which they were chosen.

    Raises:
        ValueError: if ``mem_size`` is not positive.
        TypeError: if the model has not what is needed.
    """

    adapted_dataset: Any

    def __init__(
        self,
        *,
        model: Any,
        mem_size: int = 200,
        flip: bool = True,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        if mem_size < 1:
            raise ValueError(f"mem_size must be positive, got {mem_size}")
        model = with_head(model, "single")
        model.linear = _NearestMeanHead(model.linear, model.num_features)
        self.mem_size = mem_size
        self.flip = flip
        self.exemplars: dict[int, Any] = {}
        self._reference: Any = None
        self._distilled = torch.zeros(0, dtype=torch.int64)
        super().__init__(model=model, criterion=nn.CrossEntropyLoss() if criterion is None else criterion, **kwargs)

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Adds the exemplars to the data of the experience."""
        super().train_dataset_adaptation(**kwargs)
        for exemplars in self.exemplars.values():
            self.adapted_dataset = self.adapted_dataset.concat(exemplars)

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Keeps the network as it is, and lets it grow if it does."""
        assert self.experience is not None
        self._reference = None
        old = self.exemplars.keys() - set(self.experience.classes_in_this_experience)
        if old:
            self._reference = copy.deepcopy(self.model).eval().requires_grad_(False)
            self._reference.linear = self._reference.linear.linear
            self._distilled = torch.tensor(sorted(old), device=self.device)
        super().check_model_and_optimizer(**kwargs)

    def criterion(self) -> Any:
        """The loss of the current mini-batch."""
        if not self.is_training:
            return super().criterion()
        with self._precision():
            targets = F.one_hot(self.mb_y, self.mb_output.shape[1]).to(self.mb_output)
            if self._reference is not None:
                with torch.no_grad():
                    before = self._reference(self.mb_x).sigmoid().to(targets)
                targets = targets.index_copy(1, self._distilled, before.index_select(1, self._distilled))
            return F.binary_cross_entropy_with_logits(self.mb_output, targets)

    def _after_training_exp(self, **kwargs: Any) -> None:
        self._reference = None
        self._store_exemplars()
        super()._after_training_exp(**kwargs)

    def _store_exemplars(self) -> None:
        """Chooses exemplars of the present classes, drops some of the others, and takes the means of all."""
        assert self.experience is not None
        data = self.experience.dataset
        targets = dataset_field(data, "targets")
        labels = targets.unique().tolist()
        share = math.ceil(self.mem_size / len({*labels, *self.exemplars}))
        self.exemplars = {label: each.subset(range(min(share, len(each)))) for label, each in self.exemplars.items()}
        for label in labels:
            part = data.subset((targets == label).nonzero().flatten().tolist())
            self.exemplars[label] = part.subset(herding_order(self._features(part), share).tolist())
        means = []
        for exemplars in self.exemplars.values():
            mean = self._features(exemplars).mean(0)
            means.append(mean + self._features(exemplars, flip=True).mean(0) if self.flip else mean)
        self.model.linear.set_means(list(self.exemplars), torch.stack(means))

    @torch.no_grad()
    def _features(self, data: Any, *, flip: bool = False) -> Tensor:
        """Returns the features of samples as evaluation sees them, ``(N, D)``, each of length 1."""
        with evaluation_mode(self.model):
            features = [
                self.model.features((images.flip(-1) if flip and images.dim() == 4 else images).to(self.device))
                for images, _ in evaluation_batches(data, self.eval_mb_size)
            ]
        return F.normalize(torch.cat(features))


class _NearestMeanHead(nn.Module):
    """In training a given head; in evaluation the cosines with the mean features of classes, once there are any."""

    means: Tensor
    labels: Tensor

    def __init__(self, linear: nn.Module, num_features: int) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("means", torch.zeros(0, num_features))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def set_means(self, labels: list[int], means: Tensor) -> None:
        """Takes the classes and their mean features ``(classes, D)``, of any length."""
        self.means = F.normalize(means)
        self.labels = torch.tensor(labels, device=means.device)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features ``(B, D)`` to logits or cosines ``(B, outputs)`` by class label."""
        logits: Tensor = self.linear(features)
        if self.training or len(self.labels) == 0:
            return logits
        with torch.autocast(features.device.type, enabled=False):
            cosines = F.linear(F.normalize(features.to(self.means)), self.means)
        return cosines.new_full(logits.shape, _UNSEEN).index_copy(1, self.labels, cosines)
