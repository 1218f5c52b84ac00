"""Continual normalization: group normalization of each image, then batch normalization.

References:
    [1] Q. Pham, C. Liu, S. C. H. Hoi. Continual Normalization: Rethinking Batch Normalization for Online Continual
        Learning. ICLR 2022. Authors' code: github.com/phquang/Continual-Normalization.
    [2] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

__all__ = ["ContinualNorm2d", "GroupMoments", "channel_moments", "replace_batch_norm"]

Network = TypeVar("Network", bound=nn.Module)


class _ChannelMoments(torch.autograd.Function):
    """:func:`channel_moments` in few passes over the maps: on a CPU several times as fast as ``torch.var``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean((2, 3))
        centered = x - mean[:, :, None, None]
        return centered, mean, (centered * centered).mean((2, 3))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[0])

    @staticmethod
    def backward(ctx: Any, grad_centered: Tensor, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        centered: Tensor = ctx.saved_tensors[0]
        count = centered.shape[2] * centered.shape[3]
        grad: Tensor = centered * (grad_var * (2 / count))[:, :, None, None]  # addcmul is slower
        return grad.add_(grad_centered).add_((grad_mean / count - grad_centered.mean((2, 3)))[:, :, None, None])


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of each channel of each image.

    Args:
        x: floating-point tensor of shape ``(B, C, H, W)``.

    Returns:
        ``x`` minus the means, shape ``(B, C, H, W)``, the means and the biased variances, shape ``(B, C)``.
    """
    moments: tuple[Tensor, Tensor, Tensor] = _ChannelMoments.apply(x)
    return moments


class GroupMoments(NamedTuple):
    """What :class:`ContinualNorm2d` measures in a batch: all that its output and the losses on statistics depend on.

    Attributes:
        centered: the input minus the mean of each channel of each image, shape ``(B, C, H, W)``.
        group_mean: mean of each group of channels of each image, shape ``(B, G)``.
        group_var: biased variance of the same.
        scale: 1 / sqrt(``group_var`` + eps), repeated for each channel, shape ``(B, C)``.
        offset: mean of each channel of each group-normalized image, shape ``(B, C)``.
        mean: mean of each channel of the group-normalized batch, shape ``(C,)``.
        var: biased variance of the same.
    """

    centered: Tensor
    group_mean: Tensor
    group_var: Tensor
    scale: Tensor
    offset: Tensor
    mean: Tensor
    var: Tensor


class _MeasureGroups(nn.Module):
    """Measures a batch; a module of its own, so that forward hooks on it see what it finds."""

    def __init__(self, num_groups: int, eps: float) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.eps = eps

    def forward(self, x: Tensor) -> GroupMoments:
        centered, mean, var = channel_moments(x)
        means = mean.unflatten(1, (self.num_groups, -1))
        group_mean = means.mean(2, keepdim=True)
        from_group = means - group_mean
        group_var = var.unflatten(1, (self.num_groups, -1)).mean(2, keepdim=True) + from_group.square().mean(2, True)
        group_scale = (group_var + self.eps).rsqrt()
        offset = (from_group * group_scale).flatten(1)
        scale = group_scale.expand_as(means).flatten(1)
        batch_var = (var * scale.square()).mean(0) + offset.var(0, correction=0)
        return GroupMoments(
            centered, group_mean.flatten(1), group_var.flatten(1), scale, offset, offset.mean(0), batch_var
        )


class ContinualNorm2d(nn.Module):
    r"""Continual normalization [1]: :math:`\gamma\, \mathrm{BN}(\mathrm{GN}(x)) + \beta`.

    Group normalization has no affine map. The running statistics are those of the group-normalized maps and are used
    in evaluation mode, as in batch normalization. Both normalizations are one affine map of each channel of each
    image, which is computed from their moments. Under autocast it computes in float32.

    Forward hooks on its ``measure`` see the :class:`GroupMoments` of every batch.

    Args:
        num_features: channels.
        num_groups: groups of neighboring channels. [2] uses 4, [1] 32.
        eps: added to both variances.
        momentum: weight of the present batch in the running statistics, in (0, 1]. [1] uses 0.1. With 1, as the code of
            [2] has it, they are those of the last batch.

    Raises:
        ValueError: if an argument is out of range; when called, if the input is not of shape ``(B, C, H, W)``, or has
            one value per channel in training mode.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, num_groups: int = 4, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if num_groups < 1 or num_features < 1 or num_features % num_groups:
            raise ValueError(f"num_groups must divide num_features={num_features}, got {num_groups}")
        if not 0.0 < momentum <= 1.0:
            raise ValueError(f"momentum must be in (0, 1], got {momentum}")
        if not eps > 0.0:
            raise ValueError(f"eps must be positive, got {eps}")
        self.num_features = num_features
        self.num_groups = num_groups
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.measure = _MeasureGroups(num_groups, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes maps of shape ``(B, num_features, H, W)``."""
        if x.dim() != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"expected maps of shape (B, {self.num_features}, H, W), got {tuple(x.shape)}")
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        moments: GroupMoments = self.measure(x)
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = moments.mean, moments.var
            self._update_running(mean.detach(), var.detach(), x.numel() // self.num_features)
        factor = self.weight * (var + self.eps).rsqrt()
        scale = moments.scale * factor
        shift = (moments.offset - mean) * factor + self.bias
        return (moments.centered * scale[:, :, None, None]).add_(shift[:, :, None, None])  # addcmul is slower

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: int) -> None:
        if count < 2:
            raise ValueError("training mode needs more than one value per channel, got a single pixel of one image")
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var), self.momentum)

    def extra_repr(self) -> str:
        return f"{self.num_features}, {self.num_groups}, eps={self.eps}, momentum={self.momentum}"


def replace_batch_norm(model: Network, num_groups: int = 4, *, momentum: float = 0.1) -> Network:
    """Replaces every ``BatchNorm2d`` of a model by :class:`ContinualNorm2d`, as the code of [2] does.

    Weights, biases and ``eps`` are taken over; the running statistics start anew, as they are those of other maps.

    Args:
        model: changed in place. It may be a normalization layer itself.
        num_groups: it must divide the channels of every layer.
        momentum: see :class:`ContinualNorm2d`.

    Returns:
        The model, or what replaces it.

    Raises:
        ValueError: if an argument is out of range, a layer has no affine map, or there is no layer to replace.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no BatchNorm2d to replace")
    replaced = {}
    for name, layer in layers.items():
        if not layer.affine:
            raise ValueError(f"layer {name!r} has no weight and bias to take over; use BatchNorm2d(..., affine=True)")
        new = ContinualNorm2d(layer.num_features, num_groups, eps=layer.eps, momentum=momentum)
        new.to(layer.weight)
        new.weight, new.bias = layer.weight, layer.bias
        replaced[name] = new.train(layer.training)
    if "" in replaced:
        return cast(Network, replaced[""])  # the model was itself the layer
    for name, new in replaced.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model
