r"""Class impressions: images of past classes that a frozen classifier is inverted into.

References:
    [1] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
    [2] H. Yin et al. Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion. CVPR 2020, arXiv:1912.08795.
        Authors' code: github.com/NVlabs/DeepInversion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clpack.modes import evaluation_mode

from .priors import l2_prior, total_variation
from .statistics import GroupStatistics, StatisticsForm, StatisticsLoss

__all__ = [
    "IMAGENET_RANGE",
    "ImpressionBatch",
    "SynthesisOptions",
    "impression_targets",
    "synthesis_learning_rate",
    "synthesize_impressions",
]

Preset = Literal["default", "released"]
Selection = Literal["unshifted", "shifted"]
Objective = Callable[[Tensor], Tensor]

IMAGENET_RANGE = (
    ((0 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0 - 0.406) / 0.225),
    ((1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225),
)
"""The range of the channels of images that are normalized as is usual for ImageNet; [2] clips to it."""


@dataclass(frozen=True, kw_only=True)
class SynthesisOptions:
    r"""How :func:`synthesize_impressions` optimizes. Defaults that differ from the released code [1] are marked (*).

    The loss of a batch is ``cross_entropy`` CE + ``tv_l2`` TV2 + ``tv_l1`` TV1 + ``l2`` L2 + ``statistics`` r, with the
    priors of :func:`total_variation` and :func:`l2_prior` and :class:`StatisticsLoss`. A weight of 0 leaves its term
    out.

    Args:
        iterations: steps of Adam for each batch, I. (*) 200 instead of 5000: from class means they suffice.
        learning_rate: its highest value.
        warmup: iterations in which the learning rate rises. (*) Default: a tenth of ``iterations``, at most 100;
            released: 100.
        tail: the learning rate after the warm-up is 2 ``tail`` times the highest one, and falls to 0. [2] uses 0.5.
        betas: decay of Adam's moments.
        batch_size: images that are optimized together, independently of all others. As the priors are norms over the
            batch, it belongs to their weights.
        from_mean: whether images start from the mean of their class plus 0.1 times normal noise, or, as in [2], from
            normal noise.
        jitter: largest shift of the batch along both axes in a step, in pixels; what leaves on one side enters on the
            other. (*) Default: an eighth of the shorter side, at most 30; released: 30 for all sizes.
        flip: whether the batch is mirrored left to right in half of the steps. Turn it off where the mirror image of a
            class is something else, as for digits.
        cross_entropy: weight of the mean cross-entropy.
        tv_l2: weight of the total variation in the form "l2"; [1] uses 0.001 to 0.1.
        tv_l1: weight of the form "l1".
        l2: weight of the mean norm of the images.
        statistics: weight of the loss on statistics.
        statistics_form: (*) ``"class"``, tables for each class, with gradient; released: ``"batch"``, for which
            ``batch_size`` must be that of training and all batches whole.
        first_layer_weight: see :class:`StatisticsLoss`.
        pixel_range: lowest and highest value of a pixel, numbers or one for each channel; images are clipped to it
            after each step. (*) [0, 1]; released: that of ImageNet.
        clip_channels: how many channels are clipped. (*) Default: all; released: the first.
        selection: which state of the batch is returned. (*) ``"unshifted"``: the one with the lowest loss without
            shift and mirroring, of those looked at every ``check_every`` iterations and at the end. Released,
            ``"shifted"``: that after the step of the lowest loss with shift.
        check_every: iterations between two looks at the loss without shift.
        patience: stop after so many iterations in which the loss without shift has not become lower. Default: never.

    Raises:
        ValueError: if an option is out of range.
    """

    iterations: int = 200
    learning_rate: float = 0.05
    warmup: int | None = None
    tail: float = 0.2
    betas: tuple[float, float] = (0.5, 0.9)
    batch_size: int = 40
    from_mean: bool = True
    jitter: int | None = None
    flip: bool = True
    cross_entropy: float = 1.0
    tv_l2: float = 0.01
    tv_l1: float = 0.0
    l2: float = 0.1
    statistics: float = 1.0
    statistics_form: StatisticsForm = "class"
    first_layer_weight: float = 10.0
    pixel_range: tuple[float | tuple[float, ...], float | tuple[float, ...]] = (0.0, 1.0)
    clip_channels: int | None = None
    selection: Selection = "unshifted"
    check_every: int = 10
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "check_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "jitter", "clip_channels", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("cross_entropy", "tv_l2", "tv_l1", "l2", "statistics", "first_layer_weight", "tail"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        if not _is_range(self.pixel_range):
            raise ValueError(
                "pixel_range must be the lowest and then the highest value, numbers or one for each channel, got "
                f"{self.pixel_range}"
            )
        if self.statistics_form not in get_args(StatisticsForm):
            raise ValueError(f"statistics_form must be 'class' or 'batch', got {self.statistics_form!r}")
        if self.selection not in get_args(Selection):
            raise ValueError(f"selection must be 'unshifted' or 'shifted', got {self.selection!r}")
        if self.patience is not None and self.selection == "shifted":
            raise ValueError("patience needs selection='unshifted', the loss that it watches")

    @classmethod
    def preset(cls, name: Preset = "default", **changes: Any) -> SynthesisOptions:
        """Returns the options of a preset, with changes.

        Args:
            name: ``"default"``, or ``"released"`` for those of the released code of [1].
            changes: options by name.

        Raises:
            ValueError: if the preset is unknown or an option is out of range.
            TypeError: if there is no such option.
        """
        if name not in get_args(Preset):
            raise ValueError(f"preset must be 'default' or 'released', got {name!r}")
        return replace(_RELEASED if name == "released" else cls(), **changes)


def _is_range(bounds: Any) -> bool:
    try:
        low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in bounds)
        return bool((low < high).all())
    except (TypeError, ValueError, RuntimeError):  # no numbers, not two, or not as many channels
        return False


_RELEASED = SynthesisOptions(
    iterations=5000,
    warmup=100,
    jitter=30,
    statistics_form="batch",
    pixel_range=(IMAGENET_RANGE[0][0], IMAGENET_RANGE[1][0]),
    clip_channels=1,
    selection="shifted",
)


def synthesis_learning_rate(
    iteration: int, iterations: int, *, highest: float = 0.05, warmup: int = 100, tail: float = 0.2
) -> float:
    r"""The learning rate of a step: a linear warm-up, then a cosine down to 0 [1].

    .. math::
        \eta_e = \eta\, (e + 1) / w \ (e < w), \quad
        \eta_e = t\, (1 + \cos(\pi (e - w) / (I - w)))\, \eta \ (e \ge w)

    Args:
        iteration: e, from 0.
        iterations: I.
        highest: :math:`\eta`.
        warmup: w.
        tail: t. With 0.2, as in the code of [1], the rate falls at the end of the warm-up to 0.4 of the highest; with
            0.5, as in [2], it does not.
    """
    if iteration < warmup:
        return highest * (iteration + 1) / warmup
    return tail * (1.0 + math.cos(math.pi * (iteration - warmup) / (iterations - warmup))) * highest


def impression_targets(
    num_images: int,
    num_classes: int,
    *,
    draw: Literal["balanced", "uniform"] = "balanced",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The classes of the images to synthesize.

    Args:
        num_images: how many.
        num_classes: classes 0, ..., ``num_classes`` - 1.
        draw: ``"balanced"``: 0, 1, ... over and over; ``"uniform"``: each at random, as in the released code of [1].
        generator: where they are drawn from. Default: torch's global generator.

    Returns:
        Int64 tensor of shape ``(num_images,)``, on the CPU.

    Raises:
        ValueError: if a number is not positive or ``draw`` is unknown.
    """
    if num_images < 1 or num_classes < 1:
        raise ValueError(f"num_images and num_classes must be positive, got {num_images} and {num_classes}")
    if draw == "balanced":
        return torch.arange(num_images) % num_classes
    if draw == "uniform":
        return torch.randint(num_classes, (num_images,), generator=generator)
    raise ValueError(f"draw must be 'balanced' or 'uniform', got {draw!r}")


class ImpressionBatch:
    """A batch of images under optimization; :func:`synthesize_impressions` is the loop around it.

    Args:
        objective: maps images to the loss of the batch. The network within should be in evaluation mode.
        start: images to start from, floating-point of shape ``(B, C, H, W)``.
        options: how to optimize.

    Attributes:
        images: the images after the last step, a leaf tensor.
        iteration: steps taken.
        best: the images of the lowest loss so far, of those that ``options.selection`` looks at.
        best_loss: that loss, a scalar tensor.
    """

    def __init__(self, objective: Objective, start: Tensor, options: SynthesisOptions) -> None:
        self.objective = objective
        self.options = options
        self.images = start.detach().clone().requires_grad_()
        self.iteration = 0
        self.best = start.detach().clone()
        self.best_loss = start.new_full((), math.inf)
        self._warmup = min(100, options.iterations // 10) if options.warmup is None else options.warmup
        self._adam = torch.optim.Adam([self.images], lr=options.learning_rate, betas=options.betas, eps=1e-8)
        low, high = (torch.as_tensor(bound, dtype=start.dtype, device=start.device) for bound in options.pixel_range)
        self._low, self._high = (bound[:, None, None] if bound.dim() else bound for bound in (low, high))

    def step(self, shift: tuple[int, int] = (0, 0), *, flip: bool = False) -> Tensor:
        """Takes a step of Adam on the shifted and possibly mirrored images.

        Args:
            shift: rows and columns by which the images are shifted, around the borders.
            flip: whether they are then mirrored left to right.

        Returns:
            The loss before the step, a scalar without gradient.
        """
        options = self.options
        with torch.enable_grad():
            seen = self.images.roll(shift, (2, 3))
            loss = self.objective(seen.flip(3) if flip else seen)
            (self.images.grad,) = torch.autograd.grad(loss, self.images)  # to the images only
        self._adam.param_groups[0]["lr"] = synthesis_learning_rate(
            self.iteration,
            options.iterations,
            highest=options.learning_rate,
            warmup=self._warmup,
            tail=options.tail,
        )
        self._adam.step()
        with torch.no_grad():
            clipped = self.images[:, : options.clip_channels]
            clipped.copy_(clipped.clamp(self._low, self._high))
        self.iteration += 1
        if options.selection == "shifted":
            self._keep(loss.detach())
        return loss.detach()

    @torch.no_grad()
    def check(self) -> Tensor:
        """Returns the loss of the present images without shift, and keeps them if it is the lowest so far."""
        loss = self.objective(self.images)
        self._keep(loss)
        return loss

    def _keep(self, loss: Tensor) -> None:
        better = loss < self.best_loss
        self.best = torch.where(better, self.images.detach(), self.best)
        self.best_loss = torch.where(better, loss, self.best_loss)


def synthesize_impressions(
    model: nn.Module,
    class_means: Tensor,
    targets: Tensor,
    *,
    statistics: GroupStatistics | None = None,
    options: SynthesisOptions | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Inverts a classifier into images of the classes ``targets``, from the means of the classes [1].

    Batches are optimized one after the other and independently: two calls in turn with the same generator give bit for
    bit the images of one call, if the first has whole batches. The mode of the model, its parameters, gradients and
    buffers and the global random generators are left as they were. No gradient is computed but that of the images, and
    nothing is read back from the device, unless ``options.patience`` is set.

    Args:
        model: maps images to logits ``(B, outputs)``. It is put in evaluation mode meanwhile.
        class_means: float tensor of shape ``(classes, C, H, W)``, in the order of the outputs; see
            :func:`~clpack.synthesis.class_means`.
        targets: int64 tensor of shape ``(N,)``, positions among ``class_means``; see :func:`impression_targets`.
        statistics: group moments of the layers of continual normalization, see
            :func:`~clpack.synthesis.class_statistics`; with ``options.statistics_form="batch"`` those of
            :class:`~clpack.synthesis.BatchMoments`. None for a network of batch normalization, or if the weight is 0.
        options: how to optimize. Default: ``SynthesisOptions()``.
        generator: where noise, shifts and mirrorings are drawn from; on the CPU.

    Returns:
        A tensor of shape ``(N, C, H, W)``, on the device of the model.

    Raises:
        ValueError: if a shape or a target is wrong, or the statistics do not fit the model.
        TypeError: if the labels are not int64.
    """
    options = SynthesisOptions() if options is None else options
    _check(class_means, targets, options)
    device = next(model.parameters()).device
    statistics_loss = None
    if options.statistics > 0:
        statistics_loss = StatisticsLoss(
            model, statistics, form=options.statistics_form, first_layer_weight=options.first_layer_weight
        )
        if statistics is not None:
            _check_rows(len(statistics), len(class_means), len(targets), options)
    parts = []
    with evaluation_mode(model):
        for labels in targets.split(options.batch_size):
            start = torch.randn((len(labels), *class_means.shape[1:]), generator=generator, dtype=class_means.dtype)
            if options.from_mean:
                start = class_means[labels.to(class_means.device)].cpu() + 0.1 * start
            objective = _objective(model, statistics_loss, labels.to(device), options)
            parts.append(_optimize(ImpressionBatch(objective, start.to(device), options), generator))
    return torch.cat(parts)


def _optimize(batch: ImpressionBatch, generator: torch.Generator) -> Tensor:
    options = batch.options
    jitter = min(30, min(batch.images.shape[2:]) // 8) if options.jitter is None else options.jitter
    # All are drawn at once, so that stopping early does not shift what later batches draw.
    shifts = torch.randint(-jitter, jitter + 1, (options.iterations, 2), generator=generator).tolist()
    flips = (torch.rand(options.iterations, generator=generator) > 0.5).tolist()
    lowest, since = math.inf, 0
    for iteration, ((rows, columns), flip) in enumerate(zip(shifts, flips, strict=True)):
        if options.selection == "unshifted" and iteration > 0 and iteration % options.check_every == 0:
            loss = batch.check()
            if options.patience is not None:
                value = float(loss)
                lowest, since = (value, iteration) if value < lowest else (lowest, since)
                if iteration - since >= options.patience:
                    return batch.best
        batch.step((rows, columns), flip=flip and options.flip)
    if options.selection == "unshifted":
        batch.check()
    return batch.best


def _objective(
    model: nn.Module, statistics_loss: StatisticsLoss | None, targets: Tensor, options: SynthesisOptions
) -> Objective:
    def objective(images: Tensor) -> Tensor:
        if statistics_loss is None:
            logits, loss = model(images), images.new_zeros(())
        else:
            logits, loss = statistics_loss(images, targets)
            loss = options.statistics * loss
        loss = loss + options.cross_entropy * F.cross_entropy(logits, targets)
        if options.tv_l2 > 0:
            loss = loss + options.tv_l2 * total_variation(images)
        if options.tv_l1 > 0:
            loss = loss + options.tv_l1 * total_variation(images, norm="l1")
        if options.l2 > 0:
            loss = loss + options.l2 * l2_prior(images)
        return loss

    return objective


def _check(class_means: Tensor, targets: Tensor, options: SynthesisOptions) -> None:
    if class_means.dim() != 4 or not class_means.is_floating_point() or len(class_means) == 0:
        raise ValueError(
            "class_means must be floating-point images of shape (classes, C, H, W), got "
            f"{class_means.dtype} of shape {tuple(class_means.shape)}"
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"targets must be an int64 tensor of class labels, got {targets.dtype}")
    if targets.dim() != 1 or len(targets) == 0:
        raise ValueError(f"targets must have shape (N,) with at least one image, got {tuple(targets.shape)}")
    low, high = int(targets.min()), int(targets.max())
    if not 0 <= low <= high < len(class_means):
        raise ValueError(f"targets must be positions among {len(class_means)} class_means, got {low} to {high}")
    for bound in options.pixel_range:
        if isinstance(bound, tuple) and len(bound) != class_means.shape[1]:
            raise ValueError(
                f"pixel_range must hold one number or one for each of {class_means.shape[1]} channels, got {len(bound)}"
            )


def _check_rows(num_rows: int, num_classes: int, num_images: int, options: SynthesisOptions) -> None:
    if options.statistics_form == "class" and num_rows < num_classes:
        raise ValueError(f"statistics must have a row for each of {num_classes} class_means, got {num_rows}")
    if options.statistics_form == "batch" and (options.batch_size != num_rows or num_images % num_rows):
        raise ValueError(
            f"statistics_form='batch' needs whole batches of as many images as statistics has rows, {num_rows}, got "
            f"batch_size={options.batch_size} and {num_images} images; change them, or use statistics_form='class'"
        )
