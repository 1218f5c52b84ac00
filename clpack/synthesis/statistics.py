r"""What is kept of the data of past classes, and the loss that holds images to it.

References:
    [1] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
    [2] H. Yin et al. Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion. CVPR 2020, arXiv:1912.08795.
        Authors' code: github.com/NVlabs/DeepInversion.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clpack.models.normalization import ContinualNorm2d, GroupMoments, channel_moments
from clpack.modes import evaluation_mode

__all__ = ["BatchMoments", "GroupStatistics", "StatisticsForm", "StatisticsLoss", "class_means", "class_statistics"]

Batches = Iterable[tuple[Tensor, Tensor]]
StatisticsForm = Literal["class", "batch"]


def class_means(batches: Batches, classes: Sequence[int], *, eight_bit: bool = False) -> Tensor:
    """The mean image of each class: the only images of past data that are kept.

    Args:
        batches: pairs of images ``(B, C, H, W)``, as the network gets them, and int64 labels ``(B,)``. Give
            ``[(images, targets)]`` for data in memory.
        classes: the classes, in the order of the result; samples of others are left out.
        eight_bit: round to multiples of 1/255 in [0, 1], as in the code of [1], which keeps PNG files.

    Returns:
        Float32 tensor of shape ``(len(classes), C, H, W)``, on the device of the images.

    Raises:
        ValueError: if the data are not images, their shapes differ, or a class has fewer than two samples: the mean
            of one would be that sample.
    """
    total: Tensor | None = None
    counts = torch.zeros(len(classes), dtype=torch.int64)
    for images, targets in batches:
        _check_images(images, targets)
        member = _membership(targets.to(images.device), classes)
        sums = (member.to(torch.float64).T @ images.flatten(1).to(torch.float64)).unflatten(1, images.shape[1:])
        if total is not None and total.shape != sums.shape:
            raise ValueError(f"images must have one shape, got {tuple(total.shape[1:])} and {tuple(images.shape[1:])}")
        total = sums if total is None else total + sums
        counts += member.sum(0).cpu()
    _check_counts(counts, classes)
    assert total is not None
    means = (total / counts.to(total.device)[:, None, None, None]).float()
    return (means * 255 + 0.5).floor().clamp(0, 255) / 255 if eight_bit else means


@dataclass(frozen=True)
class GroupStatistics:
    """Means and biased variances of the groups of channels in every layer of continual normalization.

    Attributes:
        mean: by the name of the layer, float tensors of shape ``(rows, G)``. A row stands for a class, in the order of
            the outputs of the network; in the released form, for an image of the last training batch.
        var: the same for the variances.
    """

    mean: dict[str, Tensor]
    var: dict[str, Tensor]

    def __len__(self) -> int:
        return min((len(table) for table in self.mean.values()), default=0)

    def extended(self, new: GroupStatistics) -> GroupStatistics:
        """Returns these rows with those of new classes below; old classes keep theirs."""
        if self.mean.keys() != new.mean.keys():
            raise ValueError(f"statistics must be of the same layers, got {list(self.mean)} and {list(new.mean)}")
        return GroupStatistics(
            {name: torch.cat((table, new.mean[name].to(table))) for name, table in self.mean.items()},
            {name: torch.cat((table, new.var[name].to(table))) for name, table in self.var.items()},
        )


@torch.no_grad()
def class_statistics(model: nn.Module, batches: Batches, classes: Sequence[int]) -> GroupStatistics:
    """Averages over the images of each class of their group means and variances, in evaluation mode [1].

    Collect them at the end of the task that brings the classes. The mode of the model is left as it was.

    Args:
        model: a network with layers of :class:`~clpack.models.ContinualNorm2d`.
        batches: see :func:`class_means`; images are moved to the device of the model.
        classes: the classes, in the order of the rows; samples of others are left out.

    Raises:
        ValueError: if the model has no such layer, the data are not images, or a class has fewer than two samples.
    """
    layers = _continual_norms(model)
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    counts = torch.zeros(len(classes), dtype=torch.int64)
    with evaluation_mode(model), _group_moments(layers) as seen:
        for images, targets in batches:
            _check_images(images, targets)
            model(images.to(device))
            member = _membership(targets.to(device), classes)
            counts += member.sum(0).cpu()
            for name, moments in seen.items():
                values = torch.stack((moments.group_mean, moments.group_var)).to(torch.float64)
                new = member.to(torch.float64).T @ values
                sums[name] = sums[name] + new if name in sums else new
    _check_counts(counts, classes)
    means = {name: (table / counts.to(device)[:, None]).float() for name, table in sums.items()}
    return GroupStatistics(
        {name: means[name][0] for name in layers if name in means},
        {name: means[name][1] for name in layers if name in means},
    )


class BatchMoments:
    """Follows the group moments of the images of training batches, as the layers of the released code of [1] do.

    Each layer keeps one row for each image, of the size of the first batch that it saw in training mode; batches of
    another size are left out. Rows are replaced with the momentum of the layer, with 1.0 as in [1] altogether. It
    watches from its making until :meth:`remove`.

    Args:
        model: a network with layers of :class:`~clpack.models.ContinualNorm2d`.

    Attributes:
        statistics: what the layers hold at present.

    Raises:
        ValueError: if the model has no such layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self.statistics = GroupStatistics({}, {})
        self._handles = [self._watch(name, layer) for name, layer in _continual_norms(model).items()]

    def remove(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()

    def _watch(self, name: str, layer: ContinualNorm2d) -> RemovableHandle:
        def keep(_: nn.Module, __: object, moments: GroupMoments) -> None:
            if not layer.training:
                return
            for table, values in ((self.statistics.mean, moments.group_mean), (self.statistics.var, moments.group_var)):
                old = table.setdefault(name, values.detach())
                if len(old) == len(values):
                    table[name] = old.lerp(values.detach(), layer.momentum)

        return layer.measure.register_forward_hook(keep)


class StatisticsLoss:
    r"""How far the statistics of images in a network are from those that the network keeps.

    The sum over all layers of batch normalization [2] and of continual normalization [1], in evaluation mode:

    .. math::
        r = \|\sigma^2_{\mathrm{run}} - \sigma^2\|_2 + \|\mu_{\mathrm{run}} - \mu\|_2
            + \|V^* - V\|_F + \|M^* - M\|_F

    with the means and biased variances of each channel over the batch, of what the running statistics are of: the input
    of the layer, or for continual normalization its group-normalized form. The last two terms are those of continual
    normalization only: the matrices ``(B, G)`` of the moments of all groups of all images.

    In the form ``"class"`` the targets :math:`M^*, V^*` of an image are the rows of its class, from
    :func:`class_statistics`. In the form ``"batch"``, which the released code of [1] has, they are the rows of
    :class:`BatchMoments`, without relation to the labels, and these two terms have no gradient.

    All moments are those that the layers compute for their output anyway, so that the loss costs little more than a
    pass through the network.

    Args:
        model: the network, left as it is.
        statistics: targets of the layers of continual normalization. None for a network of batch normalization.
        form: what the rows of ``statistics`` are.
        first_layer_weight: weight of the first layer, in the order of ``model.modules()``; others have 1. [1] uses 10.

    Raises:
        ValueError: if the model has no layer with statistics, or ``statistics`` is missing or of other layers.
    """

    def __init__(
        self,
        model: nn.Module,
        statistics: GroupStatistics | None = None,
        *,
        form: StatisticsForm = "class",
        first_layer_weight: float = 10.0,
    ) -> None:
        if form not in get_args(StatisticsForm):
            raise ValueError(f"form must be 'class' or 'batch', got {form!r}")
        self.model = model
        self.statistics = statistics
        self.form = form
        self.first_layer_weight = first_layer_weight
        self._layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, ContinualNorm2d | nn.BatchNorm2d) and layer.running_mean is not None
        }
        if not self._layers:
            raise ValueError(
                f"{type(model).__name__} has no normalization layer with running statistics: use a network with "
                "ContinualNorm2d, see replace_batch_norm, or leave the statistics out with the weight 0"
            )
        needed = {name for name, layer in self._layers.items() if isinstance(layer, ContinualNorm2d)}
        given = set() if statistics is None else set(statistics.mean)
        if needed != given:
            raise ValueError(
                f"statistics must be of the {len(needed)} layers of continual normalization of the model, got "
                f"{len(given)}, of which {len(given & needed)} are among them; collect them with class_statistics"
            )
        self._rows: dict[str, tuple[Tensor, Tensor]] = {}
        if statistics is not None:
            for name, mean in statistics.mean.items():
                like = self._layers[name].running_mean
                self._rows[name] = mean.to(like), statistics.var[name].to(like)

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Passes images through the network, in its present mode, which should be evaluation.

        Args:
            images: floating-point tensor of shape ``(B, C, H, W)``.
            targets: int64 tensor of shape ``(B,)``, positions of their classes among the outputs.

        Returns:
            The logits ``(B, outputs)``, and the loss, a scalar. Both have gradients.

        Raises:
            ValueError: in the form ``"batch"``, if there are not as many images as rows.
        """
        logits, terms = self.terms(images, targets)
        weights = torch.ones_like(terms)
        weights[0] = self.first_layer_weight
        return logits, terms @ weights

    def terms(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits, and the unweighted terms of all layers in their order, shape ``(layers,)``."""
        if self.form == "batch" and self.statistics is not None and len(self.statistics) != len(images):
            raise ValueError(
                f"the released form needs as many images as the training batch had, {len(self.statistics)}, got "
                f"{len(images)}; set the size of the batch accordingly"
            )
        continual = {name: layer for name, layer in self._layers.items() if isinstance(layer, ContinualNorm2d)}
        batch = {name: layer for name, layer in self._layers.items() if name not in continual}
        with _group_moments(continual) as groups, _inputs(batch) as inputs:
            logits = self.model(images)
        terms = []
        for name, layer in self._layers.items():
            assert layer.running_mean is not None
            assert layer.running_var is not None
            if name in groups:
                mean, var = groups[name].mean, groups[name].var
            else:
                _, means, variances = channel_moments(inputs[name])
                mean, var = means.mean(0), variances.mean(0) + means.var(0, correction=0)
            term = _distance(layer.running_var, var) + _distance(layer.running_mean, mean)
            terms.append(term + self._group_term(name, groups[name], targets) if name in groups else term)
        return logits, torch.stack(terms)

    def _group_term(self, name: str, moments: GroupMoments, targets: Tensor) -> Tensor:
        means, variances = self._rows[name]
        if self.form == "class":
            means, variances = means[targets], variances[targets]
        term = _distance(variances, moments.group_var) + _distance(means, moments.group_mean)
        return term if self.form == "class" else term.detach()


@contextlib.contextmanager
def _group_moments(layers: Mapping[str, ContinualNorm2d]) -> Iterator[dict[str, GroupMoments]]:
    """Yields what the layers measure in the last pass."""
    seen: dict[str, GroupMoments] = {}

    def watch(name: str, layer: ContinualNorm2d) -> RemovableHandle:
        return layer.measure.register_forward_hook(lambda _, __, moments: seen.update({name: moments}))

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _inputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Yields the inputs of the layers in the last pass."""
    seen: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> RemovableHandle:
        return layer.register_forward_pre_hook(lambda _, inputs: seen.update({name: inputs[0]}))

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _distance(target: Tensor, value: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(target - value)
    return distance


def _continual_norms(model: nn.Module) -> dict[str, ContinualNorm2d]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, ContinualNorm2d)}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layer of continual normalization: use CCSIResNet, or replace_batch_norm on "
            "a network with BatchNorm2d before it is trained"
        )
    return layers


def _membership(targets: Tensor, classes: Sequence[int]) -> Tensor:
    return targets[:, None] == torch.as_tensor(classes, device=targets.device)


def _check_images(images: Tensor, targets: Tensor) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f"images must be floating-point, of shape (B, C, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    if targets.shape != images.shape[:1]:
        raise ValueError(f"targets must hold one label per image, shape ({len(images)},), got {tuple(targets.shape)}")


def _check_counts(counts: Tensor, classes: Sequence[int]) -> None:
    if len(classes) == 0:
        raise ValueError("classes is empty, expected at least one class")
    for label, count in zip(classes, counts.tolist(), strict=True):
        if count < 2:
            raise ValueError(
                f"every class needs at least two samples, as the mean of one would be that sample, got {count} of "
                f"class {label}"
            )
