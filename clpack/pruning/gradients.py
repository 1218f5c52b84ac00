r"""Scores from gradients of single samples.

Both run the model in evaluation mode, leave its mode, parameters, gradients, buffers and all random generators as they
were, and take the cross-entropy of the outputs as the loss.

References:
    [1] M. Paul, S. Ganguli, G. K. Dziugaite. Deep Learning on a Data Diet. NeurIPS 2021, arXiv:2107.07075 (GraNd).
    [2] Heuristics For Data Efficient Deep Learning: Max Loss Increase & Gradient Loss.
        github.com/tonydrabeck/260D (MIT). Its values are those of the mean over the mini-batch, smaller by the batch
        size; here they are those of each sample's own loss.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from clpack._checks import check_labeled_images
from clpack.modes import evaluation_mode

__all__ = ["gradient_loss", "grand"]


def grand(
    model: nn.Module, images: Tensor, targets: Tensor, *, head: nn.Linear | None = None, batch_size: int = 32
) -> NDArray[np.float64]:
    r"""GraNd [1]: the norm of the gradient of each sample's loss with respect to the parameters.

    Low scores are removed first. Average it over runs: [1] uses ten. At initialization it has been reported not to
    say anything; use it some epochs into training.

    Args:
        model: maps images to logits, ``(B, ...)`` to ``(B, C)``, each sample on its own.
        images: tensor of shape ``(N, ...)``, as the model takes them; moved to its device batch by batch.
        targets: int64 tensor of shape ``(N,)``, class labels.
        head: take the gradient with respect to the weight and the bias of this last layer only, whose output must be
            the logits. It is exact, :math:`\|p - \mathrm{onehot}(y)\| \sqrt{\|h\|^2 + 1}` with the input :math:`h` of
            the layer, and costs one forward pass. Default: all parameters that require a gradient.
        batch_size: samples at a time. The gradients of ``batch_size`` samples are in memory at once: ``batch_size``
            times the parameters, unless ``head`` is given.

    Returns:
        Float64 array of shape ``(N,)``.

    Raises:
        ValueError: if a shape or an option is wrong, or the model normalizes by batch statistics or has nothing to
            train.
        TypeError: if an argument is of the wrong type.
    """
    if head is not None:
        if all(module is not head for module in model.modules()):
            raise ValueError("head must be a layer of the model, got one that is not among model.modules()")
        return _scores(lambda x, y: _last_layer_norms(model, head, x, y), model, images, targets, batch_size)
    params = {name: param.detach() for name, param in model.named_parameters() if param.requires_grad}
    if not params:
        raise ValueError("the model has no parameter with requires_grad=True, so there is no gradient to measure")

    def loss(params: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        return _losses(functional_call(model, params, image[None]), target[None]).sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))

    def norms(x: Tensor, y: Tensor) -> Tensor:
        grads = per_sample(params, x, y).values()
        return _norms(torch.stack([_norms(each) for each in grads], dim=1))

    return _scores(norms, model, images, targets, batch_size)


def gradient_loss(model: nn.Module, images: Tensor, targets: Tensor, *, batch_size: int = 128) -> NDArray[np.float64]:
    """Gradient Loss [2]: the norm of the gradient of each sample's loss with respect to its pixels.

    High scores, suspicious samples, are removed first. It is an experimental score without a validated removal curve.

    Args:
        model: maps images to logits, ``(B, ...)`` to ``(B, C)``, each sample on its own.
        images: floating-point tensor of shape ``(N, ...)``, as the model takes them; moved to its device batch by
            batch.
        targets: int64 tensor of shape ``(N,)``, class labels.
        batch_size: samples at a time; it does not change the scores.

    Returns:
        Float64 array of shape ``(N,)``.

    Raises:
        ValueError: if a shape or an option is wrong, or the model normalizes by batch statistics.
        TypeError: if an argument is of the wrong type.
    """

    def norms(x: Tensor, y: Tensor) -> Tensor:
        pixels = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_losses(model(pixels), y).sum(), pixels)
        return _norms(gradient)

    return _scores(norms, model, images, targets, batch_size)


def _scores(
    norms: Callable[[Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, targets: Tensor, batch_size: int
) -> NDArray[np.float64]:
    """Calls ``norms`` batch by batch, with the model in evaluation mode."""
    check_labeled_images(images, targets)
    if len(images) == 0:
        raise ValueError("images is empty, expected at least one")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"layer {name!r} normalizes by the statistics of the batch even in evaluation mode, so samples have no "
                "gradient of their own; use a model with track_running_stats=True"
            )
    device = next((param.device for param in model.parameters()), images.device)
    parts = []
    with evaluation_mode(model), torch.enable_grad():
        for x, y in zip(images.split(batch_size), targets.split(batch_size), strict=True):
            parts.append(norms(x.to(device), y.to(device)).detach())
    scores: NDArray[np.float64] = torch.cat(parts).cpu().numpy()
    return scores


def _last_layer_norms(model: nn.Module, head: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    seen: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        with torch.no_grad():
            logits = model(x)
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0][1] is not logits:
        raise ValueError(
            "head must be the last layer, with the logits as its output, and used once; "
            "leave it out to take the gradient of all parameters"
        )
    _losses(logits, y)  # complains of wrong shapes
    errors = logits.double().softmax(dim=1) - F.one_hot(y, logits.shape[1])
    bias = 0.0 if head.bias is None else 1.0
    return _norms(errors) * (_norms(seen[0][0]).square() + bias).sqrt()


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.dim() != 2:
        raise ValueError(f"the model must return logits of shape (B, C), got shape {tuple(logits.shape)}")
    return F.cross_entropy(logits, targets, reduction="none")


def _norms(gradients: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(gradients.flatten(1), dim=1, dtype=torch.float64)
    return norms
