r"""Caper: a score from how far noise moves the activations of a late layer.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL, which compares with Caper.
    [2] M. R. Ganesh, S. Y. Sekeh, J. J. Corso. Q-TART: Quickly Training for Adversarial Robustness and
        in-Transferability. arXiv:2204.07024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from clpack.attacks import pgd
from clpack.modes import evaluation_mode
from clpack.randomness import generator_for

__all__ = ["caper", "check_options", "filter_prior"]

Perturbation = Literal["gaussian", "pgd"]


def caper(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    layer: nn.Module | None = None,
    head: nn.Module | None = None,
    num_filters: int = 16,
    num_trials: int = 10,
    noise_std: float = 128 / 255,
    batch_size: int = 128,
    perturbation: Perturbation = "gaussian",
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> NDArray[np.float64]:
    r"""Caper as in the code of [1]: how far noise on the images moves the activations that matter most to the head.

    For each of the filters :math:`f` of ``layer`` with the largest :func:`filter_prior`, with :math:`A_f` its output
    (before normalization and ReLU) and :math:`n_t` the noise of trial :math:`t`, which is not clipped,

    .. math::
        D_f(x) = \frac{1}{T} \sum_t \| A_f(x) - A_f(x + n_t) \|_2, \qquad
        \mathrm{score}(x) = \frac{1}{F} \sum_f \frac{D_f(x) - \min D_f}{\max D_f - \min D_f + 10^{-6}}

    with the minimum and the maximum over all images.

    High scores are removed first. The model runs in evaluation mode; its mode, parameters, gradients and buffers and
    all global random generators are left as they were. Where batch normalization takes the statistics of the batch,
    the batches, consecutive ones of ``batch_size``, are part of the definition.

    The text of [1] says that the images are attacked, its code adds Gaussian noise; ``perturbation`` offers both.

    Args:
        model: maps images to logits, ``(B, ...)`` to ``(B, C)``.
        images: floating-point tensor of shape ``(N, ...)``, as the model takes them, pixels in [0, 1]; moved to its
            device batch by batch.
        targets: int64 tensor of shape ``(N,)``, class labels, needed for ``"pgd"`` only.
        layer: the convolutional or linear layer that is watched. Default: that which the model uses last before
            ``head``.
        head: the convolutional or linear layer that follows it. Default: that which the model uses last.
        num_filters: how many filters are watched; all, if there are fewer.
        num_trials: draws of noise per image.
        noise_std: standard deviation of the noise, in units of pixels.
        batch_size: samples at a time.
        perturbation: ``"gaussian"`` noise, or the images that :func:`clpack.attacks.pgd` makes with its defaults, as a
            single trial.
        noise: the noise, of shape ``(num_trials, N, ...)``. Default: drawn.
        generator: where the noise is drawn from. Default: one with a fixed seed, so scores repeat.

    Returns:
        Float64 array of shape ``(N,)``, values in [0, 1].

    Raises:
        ValueError: if a shape or an option is wrong, or the layers do not fit together.
        TypeError: if an argument is of the wrong type.
    """
    check_options(locals())
    _check_data(images, targets, num_trials, perturbation, noise)
    device = next((param.device for param in model.parameters()), images.device)
    if generator is None:
        generator = generator_for(0, "caper", device=device)

    def perturbed(x: Tensor, rows: slice, trial: int) -> Tensor:
        if targets is not None and perturbation == "pgd":
            return pgd(model, x, targets[rows].to(device), generator=generator)
        if noise is not None:
            return x + noise[trial, rows].to(x)
        draws = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
        return x + noise_std * draws.to(device)

    with evaluation_mode(model), torch.no_grad():
        if layer is None or head is None:
            last = _last_layers(model, images[:batch_size].to(device))
            layer, head = (last[0] if layer is None else layer), (last[1] if head is None else head)
        prior = filter_prior(_weight("head", head), num_filters=len(_weight("layer", layer)))
        filters = prior.topk(min(num_filters, len(prior))).indices
        trials = range(num_trials if perturbation == "gaussian" else 1)
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            x = images[rows].to(device)
            clean = _activations(model, layer, x)[:, filters]
            moved = (_activations(model, layer, perturbed(x, rows, trial))[:, filters] - clean for trial in trials)
            parts.append(torch.stack([each.norm(dim=2) for each in moved]).mean(0))
    movements = torch.cat(parts).double().cpu().numpy()
    movements -= movements.min(axis=0)
    scores: NDArray[np.float64] = (movements / (movements.max(axis=0) + 1e-6)).mean(axis=1)
    return scores


def filter_prior(weight: Tensor, *, num_filters: int | None = None) -> Tensor:
    r"""How much the next layer draws on each filter [1]: its mean share of the signed sum of the weights.

    With :math:`W` the weight of shape ``(C, F)``, averaged over the positions of a kernel or of a flattened map,
    :math:`p_f = \frac{1}{C} \sum_c W_{cf} / \sum_{f'} W_{cf'}`, scaled to :math:`(p - \min p) / (\max p - \min p +
    10^{-6})`. There are no absolute values, so a sum may be close to zero and rule the mean.

    Args:
        weight: shape ``(C, F)``, ``(C, F, ...)`` of a convolution, or ``(C, F * positions)`` of a linear layer on
            flattened maps.
        num_filters: ``F``, where positions are flattened. Default: the second dimension of ``weight``.

    Returns:
        Tensor of shape ``(F,)``, values in [0, 1).

    Raises:
        ValueError: if the weight is not one of ``num_filters`` filters, or the weights of an output sum to zero.
    """
    rows = weight.detach().flatten(1)
    count = weight.shape[1] if num_filters is None else num_filters
    if rows.shape[1] % count:
        raise ValueError(
            f"the head must follow the layer, one input or one map of inputs for each of its {count} filters, got "
            f"{rows.shape[1]} inputs; name the layer and the head"
        )
    shares = rows.view(len(rows), count, -1).mean(2)
    prior = (shares / shares.sum(dim=1, keepdim=True)).mean(0)
    if not prior.isfinite().all():
        raise ValueError("the weights of an output of the head sum to zero, so filters have no shares; train it first")
    return (prior - prior.min()) / (prior.max() - prior.min() + 1e-6)


def check_options(options: Mapping[str, Any]) -> None:
    """Checks what can be said of the options of :func:`caper` before there are a model and images.

    Args:
        options: some of them, by name; what has another name is left alone.

    Raises:
        ValueError: if one is out of range.
        TypeError: if one is of the wrong type.
    """
    for name in ("layer", "head"):
        if options.get(name) is not None:
            _weight(name, options[name])
    for name in ("num_filters", "num_trials", "batch_size"):
        count = options.get(name, 1)
        if isinstance(count, bool) or not isinstance(count, Integral):
            raise TypeError(f"{name} must be an integer, at least 1, got {count!r}")
        if int(count) < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    noise_std = options.get("noise_std", 0.0)
    if isinstance(noise_std, bool) or not isinstance(noise_std, Real):
        raise TypeError(f"noise_std must be a number, got {noise_std!r}")
    if not 0 <= float(noise_std) < math.inf:
        raise ValueError(f"noise_std must be finite and not negative, got {noise_std}")
    if options.get("perturbation", "gaussian") not in get_args(Perturbation):
        raise ValueError(f"perturbation must be 'gaussian' or 'pgd', got {options['perturbation']!r}")
    for name, kind in (("noise", Tensor), ("generator", torch.Generator)):
        if not isinstance(options.get(name), kind | None):
            raise TypeError(f"{name} must be a torch.{kind.__name__} or None, got {type(options[name]).__name__}")


def _last_layers(model: nn.Module, x: Tensor) -> tuple[nn.Module, nn.Module]:
    """Returns the last two convolutional or linear layers that the model uses: of several heads only that of ``x``."""
    used: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: used.append(module))
        for module in model.modules()
        if isinstance(module, (_ConvNd, nn.Linear))
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if len(used) < 2:
        raise ValueError(f"the model uses {len(used)} convolutional or linear layers, expected a layer and a head")
    return used[-2], used[-1]


def _weight(name: str, layer: nn.Module) -> Tensor:
    if not isinstance(layer, (_ConvNd, nn.Linear)):
        raise TypeError(f"{name} must be a convolutional or linear layer, got {type(layer).__name__}")
    return layer.weight


def _activations(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """Returns the output of the layer, shape ``(B, F, positions)``."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append(output))
    try:
        model(x)
    finally:
        hook.remove()
    if len(seen) != 1:
        raise ValueError(f"layer must be a layer that the model uses once, got one that it used {len(seen)} times")
    output = seen[0]
    return output.reshape(len(output), output.shape[1], -1)


def _check_data(
    images: Tensor, targets: Tensor | None, num_trials: int, perturbation: Perturbation, noise: Tensor | None
) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor, got {found}")
    if len(images) == 0:
        raise ValueError("images is empty, expected at least one")
    if perturbation == "pgd" and targets is None:
        raise ValueError("targets is missing: perturbation='pgd' needs the class labels of the samples")
    if targets is not None and targets.shape != images.shape[:1]:
        raise ValueError(
            f"targets must hold one label per image, shape {tuple(images.shape[:1])}, got {tuple(targets.shape)}"
        )
    if noise is not None and noise.shape != (num_trials, *images.shape):
        raise ValueError(
            f"noise must have shape {(num_trials, *images.shape)}, one for each trial and image, got "
            f"{tuple(noise.shape)}"
        )
