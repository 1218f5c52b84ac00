"""CCSI: data-free class-incremental learning by continual class-specific impressions.

References:
    [1] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins.evaluation import EvaluationPlugin, default_evaluator
from torch import Tensor, nn
from torch.nn import functional as F

from clpack.models import ContinualNorm2d, imprinted_weights
from clpack.modes import evaluation_mode, running_statistics_kept
from clpack.synthesis import (
    balanced_class_weights,
    cosine_cross_entropy,
    intra_domain_loss,
    less_forget_loss,
    less_forget_weight,
    margin_ranking_loss,
)

from ._by_experience import check_entries, check_numbers, entries, entry_of
from ._held_out import HeldOutPlugin
from ._inversion import evaluation_batches
from .data import SAMPLE_ID, dataset_field
from .heads import IncrementalCosineClassifier, with_head
from .impressions import ClassImpressionPlugin, Preset
from .tag_baselines import ReservoirERPlugin, RingAGEMPlugin, RunningEWCPlugin
from .templates import Template

__all__ = ["CCSI"]

_CHOICES = ("cn_momentum", "idc_target", "selection", "plateau_mode", "target_updates_statistics")
_PRESETS: dict[Preset, tuple[Any, ...]] = {
    "default": (None, "validation", "validation", "max", False),
    "released": (1.0, "test", "test", "min", True),
}


class CCSI(Template):
    r"""The method of [1]: impressions of the classes seen, and four losses to learn new classes beside them.

    The training data of an experience are its images and impressions of all classes seen before, of which a
    :class:`~clpack.strategies.ClassImpressionPlugin` takes care. The head grows by rows imprinted from the features of
    the new images; the rows of earlier experiences are frozen. The loss of a mini-batch is

    .. math::
        L = L_{\mathrm{CE}} + \lambda L_D + \alpha L_M + \beta L_{\mathrm{IdC}}

    with the terms of :mod:`clpack.synthesis`: the cross-entropy of cosine logits, weighted by class, the distance of
    the features from those of the network before the experience, the margin between old and new classes, and the
    distance between the mean scores of labeled and of unlabeled images. The first experience has the first term only.
    The learning rate falls when the accuracy on samples held out no longer rises, and the weights of the best epoch
    are kept.

    After every epoch the means of the terms are logged as ``CCSI_Cross_Entropy/train_phase/ExpEEE``,
    ``CCSI_Less_Forget``, ``CCSI_Margin`` and ``CCSI_Intra_Domain``, each with its weight, and
    ``Validation_Accuracy`` and ``Learning_Rate``.

    By default no image of an earlier experience is used: samples held out are a part of the new images and of the
    impressions. For ``idc_target`` that is a choice of this package, see ``docs/ccsi.md``.

    Args:
        model: a network with ``features``, ``num_features`` and ``linear``, such as :class:`clpack.models.CCSIResNet`.
            Its head is replaced by an :class:`~clpack.strategies.IncrementalCosineClassifier`, unless it has one.
        lr: learning rate of SGD. Default: 0.1, unless ``optimizer`` is given.
        optimizer: an optimizer of your own.
        cosine: whether logits are scaled cosines. False, to compare with, for the products of features and rows; margin
            and mean scores are those of cosines then too.
        margin: of the margin loss, m.
        num_negatives: of the margin loss, K; at most all new classes count.
        margin_weight: :math:`\alpha`; 0 leaves the term out.
        less_forget: weight of the distillation where an experience brings as many classes as were there before; 0
            leaves it out, and old rows train.
        adapt_less_forget: whether the weight grows with the number of old classes, see
            :func:`clpack.synthesis.less_forget_weight`; the classes of a task are the most that any experience brought
            after the first.
        idc_weight: :math:`\beta`; 0 leaves the term out.
        rho: of :func:`clpack.synthesis.intra_domain_loss`, like ``temperature``; each a number, or a sequence with one
            for each experience of the stream after the first.
        idc_target: the unlabeled images: ``"validation"``, the samples held out; ``"none"``, no such term; or the name
            of a stream of the benchmark, of which those of the classes seen so far count. With ``"test"``, as in the
            code of [1], accuracies on it are those of a model that has seen the images, which is warned about.
        target_updates_statistics: whether unlabeled images change the running statistics of the normalization.
        synthetic_fraction: share of impressions in the samples drawn, or a sequence, see
            :class:`~clpack.strategies.ClassImpressionPlugin`.
        selection: where the accuracy for the schedule and the best epoch is taken: ``"validation"``, the samples held
            out; ``"none"``, neither is used; or the name of a stream.
        validation_fraction: the share of each class that is held out, if that is asked for.
        plateau_mode: ``"max"``, or ``"min"`` as in the code of [1], where the learning rate falls every six epochs.
        cn_momentum: of continual normalization. Default: that of the network.
        preset: ``"default"``, or ``"released"`` for the choices of the code of [1], in the synthesis too; other
            arguments win.
        seed: of the synthesis and the samples held out.
        save_to: folder for impressions, see :class:`~clpack.strategies.ClassImpressionPlugin`.
        impressions: further arguments of :class:`~clpack.strategies.ClassImpressionPlugin`: ``images_per_class``,
            ``iterations``, ``flip``, ...
        criterion: the loss in evaluation. Default: cross-entropy.
        train_mb_size: samples per training batch.
        train_epochs: epochs per experience.
        eval_mb_size: samples per evaluation batch, ``None`` for ``train_mb_size``.
        device: where the model is trained.
        autocast: ``torch.bfloat16`` for mixed precision; synthesis is in full precision.
        plugins: further Avalanche plugins, which come first; the list is copied. ``RunningEWCPlugin``,
            ``RingAGEMPlugin`` and ``ReservoirERPlugin`` do not go with CCSI.
        evaluator: as in every Avalanche strategy.
        eval_every: as in every Avalanche strategy.
        peval_mode: as in every Avalanche strategy.
        base_kwargs: passed on to Avalanche's template.

    Raises:
        ValueError: if an argument is out of range, or one of ``plugins`` does not go with CCSI; in training, see the
            plugin, and if a sequence is not as long as the stream asks for, or the benchmark lacks a stream.
        TypeError: if there is no such argument, or the model has not what is needed.
    """

    def __init__(
        self,
        *,
        model: Any,
        lr: float | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        cosine: bool = True,
        margin: float = 0.3,
        num_negatives: int = 1,
        margin_weight: float = 1.0,
        less_forget: float = 5.0,
        adapt_less_forget: bool = True,
        idc_weight: float = 1.0,
        rho: float | Sequence[float] = 0.9,
        temperature: float | Sequence[float] = 1.0,
        idc_target: str | None = None,
        target_updates_statistics: bool | None = None,
        synthetic_fraction: float | Sequence[float] = 0.66,
        selection: str | None = None,
        validation_fraction: float = 0.1,
        plateau_mode: Literal["max", "min"] | None = None,
        cn_momentum: float | None = None,
        preset: Preset = "default",
        seed: int = 0,
        save_to: str | os.PathLike[str] | None = None,
        impressions: Mapping[str, Any] | None = None,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        train_mb_size: int = 40,
        train_epochs: int = 100,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        autocast: torch.dtype | None = None,
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        **base_kwargs: Any,
    ) -> None:
        for other in plugins or []:
            if isinstance(other, RunningEWCPlugin | RingAGEMPlugin | ReservoirERPlugin):
                raise ValueError(
                    f"{type(other).__name__} needs the loss on a batch of its own, but that of CCSI is made for the "
                    "training batch, with its unlabeled images; leave the plugin out"
                )
        plugin = ClassImpressionPlugin(
            preset=preset, seed=seed, save_to=save_to, synthetic_fraction=synthetic_fraction, **(impressions or {})
        )
        given: tuple[Any, ...] = (cn_momentum, idc_target, selection, plateau_mode, target_updates_statistics)
        chosen: dict[str, Any] = {
            name: default if value is None else value
            for name, value, default in zip(_CHOICES, given, _PRESETS[preset], strict=True)
        }
        weights = {"margin_weight": margin_weight, "less_forget": less_forget, "idc_weight": idc_weight}
        for name, value in {**weights, "margin": margin}.items():
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if num_negatives < 1:
            raise ValueError(f"num_negatives must be positive, got {num_negatives}")
        for name, values in (("temperature", temperature), ("rho", rho)):
            check_numbers(name, values)
        if not all(value > 0 for value in entries(temperature)):
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not all(0 <= value <= 1 for value in entries(rho)):
            raise ValueError(f"rho must be in [0, 1], got {rho}")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in (0, 1), got {validation_fraction}")
        if chosen["plateau_mode"] not in ("max", "min"):
            raise ValueError(f"plateau_mode must be 'max' or 'min', got {chosen['plateau_mode']!r}")
        if cn_momentum is not None and not 0 < cn_momentum <= 1:
            raise ValueError(f"cn_momentum must be in (0, 1], got {cn_momentum}")
        if lr is not None and optimizer is not None:
            raise ValueError("give either lr or a ready optimizer, got both")
        for name in ("idc_target", "selection"):
            if chosen[name] == "test":
                warnings.warn(
                    f"{name}='test' looks at the test stream in training: accuracies on it are not of unseen data",
                    stacklevel=2,
                )
        if not isinstance(getattr(model, "linear", None), IncrementalCosineClassifier):
            model = with_head(model, "cosine")
            model.linear.to(next(model.parameters()))  # with_head makes it in float32, on the CPU
        model.linear.freeze_old = less_forget > 0
        model.linear.cosine = cosine
        if chosen["cn_momentum"] is not None:
            for layer in model.modules():
                if isinstance(layer, ContinualNorm2d):
                    layer.momentum = chosen["cn_momentum"]
        self.margin = margin
        self.num_negatives = num_negatives
        self.margin_weight = margin_weight
        self.less_forget = less_forget
        self.adapt_less_forget = adapt_less_forget
        self.idc_weight = idc_weight
        self.rho = rho
        self.temperature = temperature
        self.target_updates_statistics = chosen["target_updates_statistics"]
        self._num_old = 0  # classes of the experiences that are done
        self._classes_per_task = 0
        self._less_forget_weight = 0.0
        self._class_weights: Tensor | None = None
        self._reference: Any = None
        self._features: Tensor | None = None
        self._centroids: tuple[Tensor, Tensor] | None = None
        self._sums: dict[str, Tensor] = {}
        self._held_out = HeldOutPlugin(
            fraction=validation_fraction,
            selection=chosen["selection"],
            unlabeled=chosen["idc_target"] if idc_weight > 0 else "none",
            plateau_mode=chosen["plateau_mode"],
            seed=seed,
        )
        if optimizer is None:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1 if lr is None else lr)
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            autocast=autocast,
            plugins=[*(plugins or []), plugin, self._held_out],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
            **base_kwargs,
        )

    def _before_train_dataset_adaptation(self, **kwargs: Any) -> None:
        check_entries(self.experience, rho=self.rho, temperature=self.temperature)
        super()._before_train_dataset_adaptation(**kwargs)

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Keeps the network as it is, and lets it grow."""
        head: IncrementalCosineClassifier = self.model.linear
        self._reference = None
        if self._num_old and self.less_forget > 0:
            self._reference = copy.deepcopy(self.model).eval().requires_grad_(False)
        super().check_model_and_optimizer(**kwargs)
        num_new = len(head.classes) - self._num_old
        if self._num_old:
            self._classes_per_task = max(self._classes_per_task, num_new)
            per_task = max(self._classes_per_task, 1)
            weight = less_forget_weight(self._num_old, per_task, base=self.less_forget)
            self._less_forget_weight = weight if self.adapt_less_forget else self.less_forget
            if num_new:
                self._imprint(head.classes[self._num_old :])
        rows = head.row_of.cpu()[dataset_field(self.adapted_dataset, "targets")]
        counts = rows.bincount(minlength=len(head.classes)).clamp(min=1)  # classes that are missing need no weight
        self._class_weights = balanced_class_weights(counts).to(head.sigma)

    def forward(self) -> Any:
        """The logits of the current mini-batch; its features are kept for the losses."""
        if not self.is_training:
            return super().forward()
        with self._precision():
            self._features = self.model.features(self.mb_x)
            return self.model.linear(self._features)

    def criterion(self) -> Any:
        """The loss of the current mini-batch: in training the sum of the terms, whose means are logged."""
        if not self.is_training:
            return super().criterion()
        with self._precision():
            terms = self._terms()
        self._features = None
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + term.detach()
        return torch.stack([*terms.values()]).sum()

    def _terms(self) -> dict[str, Tensor]:
        """Returns the terms of the loss, each with its weight; passes are in the order of the code of [1]."""
        head: IncrementalCosineClassifier = self.model.linear
        assert self._features is not None
        features, rows = self._features, head.row_of[self.mb_y]
        scores = head.scores(features)
        if head.cosine:
            loss = cosine_cross_entropy(scores, rows, sigma=head.sigma, class_weights=self._class_weights)
        else:
            loss = F.cross_entropy(F.linear(features, head.rows()), rows, weight=self._class_weights)
        terms = {"CCSI_Cross_Entropy": loss}
        if self._num_old == 0:
            return terms
        if self._reference is not None:
            with torch.no_grad():
                reference = self._reference.features(self.mb_x)
            terms["CCSI_Less_Forget"] = less_forget_loss(features, reference, weight=self._less_forget_weight)
        num_new = len(head.classes) - self._num_old
        if self.margin_weight > 0 and num_new:
            negatives = min(self.num_negatives, num_new)
            loss = margin_ranking_loss(scores, rows, self._num_old, margin=self.margin, num_negatives=negatives)
            terms["CCSI_Margin"] = self.margin_weight * loss
        if self._held_out.unlabeled != "none":
            images = self._held_out.unlabeled_images(self)
            with contextlib.nullcontext() if self.target_updates_statistics else running_statistics_kept(self.model):
                unlabeled = head.scores(self.model.features(images))
            rho, temperature = (entry_of(value, self.experience) for value in (self.rho, self.temperature))
            loss, self._centroids = intra_domain_loss(
                scores, rows, unlabeled, self._centroids, rho=rho, temperature=temperature
            )
            terms["CCSI_Intra_Domain"] = self.idc_weight * loss
        return terms

    @torch.no_grad()
    def _imprint(self, classes: list[int]) -> None:
        """Gives the rows of new classes the directions of the features of their real images."""
        head: IncrementalCosineClassifier = self.model.linear
        targets = dataset_field(self.adapted_dataset, "targets")
        is_real = dataset_field(self.adapted_dataset, SAMPLE_ID) >= 0
        places = (is_real & torch.isin(targets, torch.tensor(classes))).nonzero().flatten()
        with evaluation_mode(self.model):
            batches = evaluation_batches(self.adapted_dataset.subset(places.tolist()), self.eval_mb_size)
            features = [self.model.features(images.to(self.device)) for images, _ in batches]
        labels = targets[places].to(self.device)
        head.blocks[-1].copy_(imprinted_weights(torch.cat(features), labels, classes, head.rows()[: self._num_old]))

    def _before_training_epoch(self, **kwargs: Any) -> None:
        self._centroids, self._sums = None, {}
        super()._before_training_epoch(**kwargs)

    def _after_training_epoch(self, **kwargs: Any) -> None:
        assert self.experience is not None
        for name, total in self._sums.items():  # before the evaluator hands out what there is
            full_name = f"{name}/train_phase/Exp{self.experience.current_experience:03d}"
            value = float(total) / self.clock.train_epoch_iterations
            self.evaluator.publish_metric_value(MetricValue(self, full_name, value, self.clock.train_iterations))
        super()._after_training_epoch(**kwargs)

    def _after_training_exp(self, **kwargs: Any) -> None:
        self._held_out.finish(self)
        self._num_old = len(self.model.linear.classes)
        self._reference, self._centroids, self._sums = None, None, {}
        super()._after_training_exp(**kwargs)
