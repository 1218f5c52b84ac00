r"""Projected gradient descent: the images near given ones that the model classifies worst.

References:
    [1] A. Madry et al. Towards Deep Learning Models Resistant to Adversarial Attacks. ICLR 2018, arXiv:1706.06083.
    [2] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL, which uses torchattacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from clpack._checks import check_labeled_images
from clpack.modes import evaluation_mode
from clpack.randomness import generator_for

from ._checks import check_given

__all__ = ["pgd"]

Mode = Literal["eval", "current"]


def pgd(
    model: Callable[..., Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    eps: float = 0.03,
    step_size: float = 0.0039,
    steps: int = 10,
    random_start: bool = True,
    start_noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    task_labels: Tensor | None = None,
    mode: Mode = "eval",
) -> Tensor:
    r"""Untargeted attack under the maximum norm, by ascent on the cross-entropy [1].

    From :math:`x_0` = ``images`` plus the start noise, clamped to [0, 1], it takes ``steps`` times

    .. math::
        x \leftarrow \mathrm{clamp}_{[0, 1]} \left( x_0 + \mathrm{clamp}_{[-\epsilon, \epsilon]}
            (x + a\, \mathrm{sign} \nabla_x L(x, y) - x_0) \right)

    with :math:`a` = ``step_size`` and :math:`L` the mean over the batch. The mode of the model, its parameters, their
    gradients and its buffers, and the global random generators are left as they were. It works under
    ``torch.no_grad()`` and within autocast, and makes no host synchronization. It costs ``steps`` passes forward, and
    backward to the images only. The defaults are those of [2].

    Args:
        model: maps images to logits ``(B, C)``. If it is a function and not a module, its mode is the caller's affair.
        images: floating-point tensor of shape ``(B, ...)``, pixels in [0, 1], on the device of the model. The
            range is not checked, which would be a host synchronization: values outside of it come back clamped.
        targets: int64 tensor of shape ``(B,)``, the true labels.
        eps: the largest change of a pixel, in units of pixels. With 0 the images come back bit for bit.
        step_size: change of a pixel in one step, in units of pixels.
        steps: number of steps.
        random_start: whether to start from uniform noise in [-``eps``, ``eps``] around the images.
        start_noise: the noise to start from instead, of the shape of ``images``.
        generator: where the noise is drawn from. Default: one with a fixed seed, so every call draws the same; give one
            of your own where batch follows upon batch.
        task_labels: given to the model as its second argument. Default: None, it has none.
        mode: the mode of the model, if it is a module, while it is attacked: ``"eval"`` as in [2], or ``"current"``, as
            it is. Statistics of batch normalization are left alone in both.

    Returns:
        A tensor like ``images``, without a gradient.

    Raises:
        ValueError: if a shape or an option is wrong.
        TypeError: if ``images``, ``targets``, a number or ``start_noise`` is of the wrong type.
    """
    _check(images, targets, eps, step_size, steps, start_noise, mode)
    images = images.detach()
    if eps == 0:
        return images.clone()
    adversarial = images
    if start_noise is None and random_start:
        generator = generator_for(0, "pgd", device=images.device) if generator is None else generator
        uniform = torch.rand(images.shape, generator=generator, device=generator.device, dtype=images.dtype)
        start_noise = (uniform * 2 - 1) * eps
    if start_noise is not None:
        adversarial = (images + start_noise.to(images)).clamp(0.0, 1.0)
    labels = () if task_labels is None else (task_labels,)
    with _undisturbed(model, mode) as forward, torch.enable_grad():
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(forward(adversarial, *labels), targets), adversarial)
            stepped = adversarial.detach() + step_size * gradient.sign()
            adversarial = (images + (stepped - images).clamp(-eps, eps)).clamp(0.0, 1.0)
    return adversarial.clone() if adversarial is images else adversarial


@contextlib.contextmanager
def _undisturbed(model: Callable[..., Tensor], mode: Mode) -> Iterator[Callable[..., Tensor]]:
    """Yields the model in the mode of the attack, such that nothing of it changes."""
    if not isinstance(model, nn.Module):
        yield model
    elif mode == "eval":
        with evaluation_mode(model):
            yield model
    else:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        devices = {param.device for param in model.parameters() if param.is_cuda}
        with torch.random.fork_rng(devices=devices):  # dropout draws from the global generators
            yield lambda *inputs: functional_call(model, buffers, inputs)


def _check(
    images: Tensor,
    targets: Tensor,
    eps: float,
    step_size: float,
    steps: int,
    start_noise: Tensor | None,
    mode: Mode,
) -> None:
    check_labeled_images(images, targets, expected="a floating-point tensor of pixels in [0, 1]")
    for name, value, kind, expected in (
        ("eps", eps, Real, "a number"),
        ("step_size", step_size, Real, "a number"),
        ("steps", steps, Integral, "an integer"),
    ):
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}")
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    if start_noise is not None:
        check_given("start_noise", start_noise, images.shape, "the shape of images")
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be 'eval' or 'current', got {mode!r}")
