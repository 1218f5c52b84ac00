"""Output layers for the three settings of continual learning, on any network with ``features`` and a ``linear`` head.

=================  ============================================================================================
``"single"``       the network as it is: one output per class of the stream, all of them used at all times
``"masked"``       one output per class; those outside the classes of a sample's task are switched off (TAG's protocol)
``"incremental"``  outputs are added when classes arrive (Avalanche's ``IncrementalClassifier``)
``"cosine"``       the same with outputs by cosines (:class:`IncrementalCosineClassifier`), as CCSI has them
``"multi"``        a head of its own for every task (Avalanche's ``MultiHeadClassifier``)
=================  ============================================================================================
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from avalanche.models import DynamicModule, IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from torch import Tensor, nn
from torch.nn import functional as F

from clpack.models import CosineLinear

__all__ = ["IncrementalCosineClassifier", "MultiHeadModel", "TaskMaskedModel", "with_head"]

Head = Literal["single", "masked", "incremental", "cosine", "multi"]

_UNSEEN = -1000.0  # what Avalanche's IncrementalClassifier writes over the logits of classes that were not trained
_MASKED = -1e11  # what the authors of TAG write over the logits of other tasks: finite, and exactly zero after softmax


def with_head(model: Any, head: Head) -> nn.Module:
    """Gives ``model`` the output layer of a setting; see the table of this module.

    Args:
        model: a network with ``features``, ``num_features`` and ``linear``, such as :class:`clpack.models.MLP`. It is
            changed in place.
        head: ``"single"``, ``"masked"``, ``"incremental"``, ``"cosine"`` or ``"multi"``.

    Returns:
        The model to give to a strategy.

    Raises:
        ValueError: if ``head`` is unknown.
        TypeError: if ``model`` lacks ``features``, ``num_features`` or ``linear``.
    """
    missing = [name for name in ("features", "num_features", "linear") if not hasattr(model, name)]
    if missing:
        raise TypeError(f"{type(model).__name__} has no {', '.join(missing)}: give a classifier of clpack.models")
    network: nn.Module = model
    if head == "single":
        return network
    if head == "masked":
        return TaskMaskedModel(model, model.linear.out_features)
    if head == "incremental":
        model.linear = IncrementalClassifier(model.num_features, initial_out_features=1)
        return network
    if head == "cosine":
        model.linear = IncrementalCosineClassifier(model.num_features)
        return network
    if head == "multi":
        return MultiHeadModel(model)
    raise ValueError(f"head must be 'single', 'masked', 'incremental', 'cosine' or 'multi', got {head!r}")


class IncrementalCosineClassifier(DynamicModule):
    r"""A cosine classifier that grows: logits :math:`\sigma \cos(f, w_c)`, with a row of weights for each class.

    The classes that an experience brings get rows in a parameter of their own, so that those of earlier experiences
    keep their place in the optimizer, and their names in regularizers such as EWC. Rows are in the order in which the
    classes appear; logits are by class label, whatever that order is, with -1000 for classes not trained yet, for which
    evaluation adds columns but no rows.

    Args:
        in_features: length of the feature vectors.
        freeze_old: whether rows stay as they are once other classes come, as in CCSI with distillation.
        cosine: whether logits are scaled cosines; False, to compare with, for :math:`f \cdot w_c`.

    Attributes:
        sigma: the scale, ``(1,)``.
        blocks: the rows of each experience that brought classes, ``(new classes, in_features)``.
        classes: the label of each row.
        row_of: int64 tensor of shape ``(outputs,)``, the row of each class label; ``len(classes)`` for one not trained.
    """

    row_of: Tensor

    def __init__(self, in_features: int, *, freeze_old: bool = False, cosine: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.freeze_old = freeze_old
        self.cosine = cosine
        self.sigma = nn.Parameter(torch.ones(1))
        self.blocks = nn.ParameterList()
        self.classes: list[int] = []
        self.register_buffer("row_of", torch.empty(0, dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def adaptation(self, experience: Any) -> None:
        """Adds rows for the classes that ``experience`` brings, in training; columns for them in any case."""
        super().adaptation(experience)
        labels = sorted(set(experience.classes_in_this_experience))
        new = [label for label in labels if label not in self.classes]
        if self.training and new:
            if self.freeze_old:
                self.blocks.requires_grad_(False)
            rows = CosineLinear(self.in_features, len(new)).weight  # drawn as any layer's are
            self.blocks.append(nn.Parameter(rows.to(self.sigma)))
            self.classes += new
        row_of = torch.full((max(len(self.row_of), labels[-1] + 1),), len(self.classes))
        row_of[self.classes] = torch.arange(len(self.classes))
        self.row_of = row_of.to(self.sigma.device)

    def rows(self) -> Tensor:
        """The weights of all classes, ``(classes, in_features)``."""
        return torch.cat([*self.blocks]) if len(self.blocks) else self.sigma.new_empty(0, self.in_features)

    def scores(self, features: Tensor) -> Tensor:
        """Maps features ``(B, in_features)`` to cosines ``(B, classes)`` in the order of the rows."""
        return F.linear(F.normalize(features, eps=1e-12), F.normalize(self.rows(), eps=1e-12))

    def forward(self, features: Tensor) -> Tensor:
        """Maps features ``(B, in_features)`` to logits ``(B, outputs)`` by class label."""
        logits = self.sigma * self.scores(features) if self.cosine else F.linear(features, self.rows())
        return torch.cat((logits, logits.new_full((len(logits), 1), _UNSEEN)), dim=1).index_select(1, self.row_of)


class TaskMaskedModel(MultiTaskModule):
    """A single-headed network whose logits outside the classes of the sample's task are set to -1e11.

    The other rows of the head then get exactly zero gradient. The classes of a task are learned from the experiences,
    as Avalanche announces them. On a stream without task labels (label 0 everywhere) the mask leaves the classes
    announced so far.

    Args:
        model: maps images to ``(B, num_classes)`` logits.
        num_classes: number of outputs.
    """

    class_mask: Tensor

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("class_mask", torch.zeros(0, num_classes, dtype=torch.bool))

    def adaptation(self, experience: Any) -> None:
        """Learns which classes belong to the tasks of ``experience``."""
        super().adaptation(experience)
        classes = sorted(experience.classes_in_this_experience)
        labels = sorted(set(experience.task_labels))
        num_classes = self.class_mask.shape[1]
        if classes[-1] >= num_classes:
            raise ValueError(
                f"experience {experience.current_experience} has class {classes[-1]}, but the model has only "
                f"{num_classes} outputs; build it with num_classes={classes[-1] + 1} or more"
            )
        rows = max(len(self.class_mask), labels[-1] + 1)
        mask = self.class_mask.new_zeros((rows, num_classes))
        mask[: len(self.class_mask)] = self.class_mask
        for label in labels:
            mask[label, classes] = True
        self.class_mask = mask

    def forward(self, images: Tensor, task_labels: Tensor | None) -> Tensor | dict[int, Tensor]:
        """Maps images ``(B, ...)`` and their task labels ``(B,)`` to logits ``(B, num_classes)``.

        Without task labels it returns, as Avalanche's models do, the logits for every task trained so far, by label.
        """
        logits: Tensor = self.model(images)
        masked = max(_MASKED, torch.finfo(logits.dtype).min)
        if task_labels is None:
            return {
                label: logits.masked_fill(~self.class_mask[label], masked) for label in self.known_train_tasks_labels
            }
        return logits.masked_fill(~self.class_mask[task_labels], masked)


class MultiHeadModel(MultiTaskModule):
    """The features of a network, and a head for every task that grows with its classes.

    Args:
        model: a network with ``features`` and ``num_features``; its own head is dropped.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.linear = nn.Identity()
        self.model = model
        self.heads = MultiHeadClassifier(model.num_features, initial_out_features=1)

    def forward(self, images: Tensor, task_labels: Tensor | None) -> Tensor | dict[int, Tensor]:
        """Maps images ``(B, ...)`` and their task labels ``(B,)`` to logits ``(B, largest head)``.

        Without task labels it returns, as Avalanche's models do, the logits for every task trained so far, by label.
        """
        features = self.model(images)
        with torch.autocast(features.device.type, enabled=False):  # the heads write into a float32 tensor
            logits: Tensor | dict[int, Tensor] = self.heads(features.to(self._dtype()), task_labels)
        return logits

    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.heads.parameters()).dtype
        return dtype
