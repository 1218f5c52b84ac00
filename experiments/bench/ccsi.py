"""What a step of synthesis costs, and what impressions are worth, on one thread.

``python -m clpack.experiments.bench.ccsi`` prints

* the time of the loss of 40 images of 3x32x32 and its gradient, against the plain way to compute it: group and batch
  normalization by torch's functions, moments anew by ``var`` and ``mean`` in a hook on each layer, and a backward pass
  to the parameters too, as in the code of [1]; how far the gradients are apart; and the same against the plain way
  without the gradients of the parameters. Both take turns, in processor time;
* the digits test bed: how many impressions of the ten digits are taken for their class by the network that they are
  of, and by another network that only knows real digits, after 200 iterations from class means and from noise.

References:
    [1] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clpack.models import CCSIResNet, ContinualNorm2d, ConvNet
from clpack.randomness import generator_for
from clpack.synthesis import (
    GroupStatistics,
    StatisticsLoss,
    SynthesisOptions,
    class_means,
    class_statistics,
    impression_targets,
    l2_prior,
    synthesize_impressions,
    total_variation,
)

__all__ = ["digits", "main", "speed"]


class _PlainNorm(nn.Module):
    """Continual normalization by torch's functions; it measures its input anew, as a hook does."""

    def __init__(self, layer: ContinualNorm2d, mean: Tensor, var: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.mean, self.var = mean, var
        self.term = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        groups = x.reshape(len(x), layer.num_groups, -1)
        z = F.group_norm(x, layer.num_groups, eps=layer.eps)
        self.term = (
            torch.norm(layer.running_var - z.var((0, 2, 3), correction=0))
            + torch.norm(layer.running_mean - z.mean((0, 2, 3)))
            + torch.norm(self.var - groups.var(2, correction=0))
            + torch.norm(self.mean - groups.mean(2))
        )
        return F.batch_norm(z, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)


def _plain(model: nn.Module, kept: GroupStatistics, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the plain loss of the same weights."""
    model = copy.deepcopy(model)
    layers = []
    for name, layer in list(model.named_modules()):
        if isinstance(layer, ContinualNorm2d):
            mean, var = (table[name].to(layer.running_mean)[targets] for table in (kept.mean, kept.var))
            layers.append(_PlainNorm(layer, mean, var))
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layers[-1])

    def loss(images: Tensor) -> Tensor:
        logits = model(images)
        terms = [layer.term for layer in layers]
        return F.cross_entropy(logits, targets) + 10.0 * terms[0] + torch.stack(terms[1:]).sum() + _priors(images)

    return loss


def _fused(model: nn.Module, kept: GroupStatistics, targets: Tensor) -> Callable[[Tensor], Tensor]:
    statistics_loss = StatisticsLoss(model, kept)

    def loss(images: Tensor) -> Tensor:
        logits, value = statistics_loss(images, targets)
        return F.cross_entropy(logits, targets) + value + _priors(images)

    return loss


def _priors(images: Tensor) -> Tensor:
    return 0.01 * total_variation(images) + 0.1 * l2_prior(images)


def speed(*, num_images: int = 40, rounds: int = 15) -> dict[str, float]:
    """Measures the loss of a batch with its gradient.

    Args:
        num_images: of the batch.
        rounds: how often each is timed.

    Returns:
        Median milliseconds ``fused``, ``plain`` and ``plain_images_only``, without the gradients of parameters; the
        ratios ``ratio`` and ``ratio_images_only`` of these to ours; and the norm of the difference of the gradients,
        relative to the plain one: ``difference``, and ``difference_double`` in double precision. In single precision
        a ReLU whose input is zero but for rounding may fall on either side, which can move either gradient by 1e-3.
    """
    generator = generator_for(0, "bench images")
    images, targets = torch.rand(num_images, 3, 32, 32, generator=generator), impression_targets(num_images, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CCSIResNet(2)
    model(images)
    model.eval()
    kept = class_statistics(model, [(images, targets)], [0, 1])
    fused_loss, plain_loss = _fused(model, kept, targets), _plain(model, kept, targets)
    start = torch.rand(num_images, 3, 32, 32, generator=generator)
    x = start.clone().requires_grad_()

    def fused() -> Tensor:
        return torch.autograd.grad(fused_loss(x), x)[0]

    def plain() -> Tensor | None:
        x.grad = None
        plain_loss(x).backward()
        return x.grad

    def plain_images_only() -> Tensor:
        return torch.autograd.grad(plain_loss(x), x)[0]

    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for step in (fused, plain, plain_images_only):
            begin = time.process_time()
            step()
            times.setdefault(step.__name__, []).append(1e3 * (time.process_time() - begin))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **medians,
        "ratio": medians["plain"] / medians["fused"],
        "ratio_images_only": medians["plain_images_only"] / medians["fused"],
        "difference": _difference(fused_loss, plain_loss, start),
        "difference_double": _difference(
            _fused(model.double(), kept, targets), _plain(model, kept, targets), start.double()
        ),
    }


def _difference(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], images: Tensor) -> float:
    x = images.clone().requires_grad_()
    first, second = (torch.autograd.grad(loss(x), x)[0] for loss in (ours, theirs))
    return float((first - second).norm() / second.norm())


def digits(
    *, num_train: int = 1437, epochs: int = 6, num_images: int = 40, iterations: int = 200, seed: int = 0
) -> dict[str, float]:
    """Synthesizes scikit-learn's digits, enlarged to 32 pixels, and shows them to both networks.

    Args:
        num_train: digits on which both networks are trained, at most 1437; 360 others are for testing.
        epochs: passes over them.
        num_images: impressions, of all digits in turn, in batches of at most 40.
        iterations: steps of the synthesis.
        seed: of the networks and the synthesis.

    Returns:
        Fractions of test digits that are classified rightly, ``teacher_test`` and ``other_test``; and of impressions,
        ``mean_teacher`` and ``mean_other`` from class means, ``noise_teacher`` and ``noise_other`` from noise.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy(data.images).float()[:, None] / 16.0
    images, labels = F.interpolate(small, size=32, mode="bilinear"), torch.from_numpy(data.target).long()
    order = torch.randperm(len(images), generator=generator_for(seed, "digits split"))
    train, test = order[:num_train], order[1437:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher, other = CCSIResNet(10, in_channels=1), ConvNet(10, in_channels=1, width=32, norm="batch")
    for network in (teacher, other):
        _train(network, images[train], labels[train], epochs, seed)
    kept = [(images[train], labels[train])]
    means, moments = class_means(kept, range(10)), class_statistics(teacher, kept, range(10))
    targets = impression_targets(num_images, 10)
    networks = {"teacher": teacher, "other": other}
    figures = {f"{name}_test": _accuracy(network, images[test], labels[test]) for name, network in networks.items()}
    for start in ("mean", "noise"):
        options = SynthesisOptions(iterations=iterations, from_mean=start == "mean", flip=False)
        impressions = synthesize_impressions(
            teacher,
            means,
            targets,
            statistics=moments,
            options=options,
            generator=generator_for(seed, "digits synthesis"),
        )
        figures.update({f"{start}_{name}": _accuracy(net, impressions, targets) for name, net in networks.items()})
    return figures


def _train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = generator_for(seed, "digits order")
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((network(images).argmax(1) == labels).double().mean())


def main() -> None:
    """Prints both."""
    torch.set_num_threads(1)
    figures = speed()
    print(
        f"one loss with gradient, 40 x 3 x 32 x 32: clpack {figures['fused']:.1f} ms, plain {figures['plain']:.1f} ms, "
        f"ratio {figures['ratio']:.1f}\n"
        f"plain without gradients of parameters: {figures['plain_images_only']:.1f} ms, ratio "
        f"{figures['ratio_images_only']:.1f}\n"
        f"relative difference of the gradients: {figures['difference']:.0e}, in double precision "
        f"{figures['difference_double']:.0e}"
    )
    found = digits()
    print(f"test digits: teacher {found['teacher_test']:.3f}, independent network {found['other_test']:.3f}")
    for start, label in (("mean", "class means"), ("noise", "noise")):
        print(
            f"200 iterations from {label}: teacher {found[f'{start}_teacher']:.3f}, "
            f"independent network {found[f'{start}_other']:.3f}"
        )


if __name__ == "__main__":
    main()
