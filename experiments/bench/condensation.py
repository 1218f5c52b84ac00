"""What an iteration of condensation costs, against a plain loop over the classes, on one thread.

``python -m clpack.experiments.bench.condensation`` prints, for 10 classes of 3x32x32 images, batches of 256 real images
of each, low-rank factors in the memory of one image per class, and the network of the papers,

* the processor time of an iteration of LoDM against that of a loop that passes the batch of each class through the
  network at once, and how far the gradients of the factors are apart, as a share of their norm;
* the time of the gradients on real images in LoDC, likewise;
* the most memory that the iteration of LoDM takes above the data, where Linux counts it.

Both ways have the same network, batches and augmentation, and take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clpack.condensation import LowRankImages, Settings, augment
from clpack.condensation._draws import Draws, network_factory
from clpack.condensation._updates import DistributionMatching, GradientMatching, RealImages

__all__ = ["gradient_matching", "main", "memory", "speed"]

_CLASSES = 10
_CPU = torch.device("cpu")


def speed(*, batch_real: int = 256, width: int = 128, rounds: int = 3) -> dict[str, float]:
    """Returns what LoDM takes: seconds ``ours`` and ``plain``, their ``ratio``, and the ``difference`` of gradients.

    Args:
        batch_real: real images of a class in an iteration.
        width: channels of the network.
        rounds: iterations of each, after one to warm up.
    """
    real, draws = _data(batch_real), _draws(width)
    settings = _settings("dm", batch_real)
    images = _factors(settings.rank)
    update = DistributionMatching(real, images, settings, draws)
    plain = _factors(settings.rank)
    difference = 0.0
    times = []
    for number in range(rounds + 1):
        plain.load_state_dict(images.state_dict())
        seconds = [
            _seconds(partial(update.update, number)),
            _seconds(partial(_plain, real, plain, settings, draws, number)),
        ]
        difference = max(difference, _difference(_gradients(images), _gradients(plain)))
        times.append(seconds)
    return {**_ratio(times[1:]), "difference": difference}


def gradient_matching(*, batch_real: int = 256, width: int = 128, rounds: int = 3) -> dict[str, float]:
    """Returns what the gradients on the real images of all classes take in LoDC; arguments and result as above."""
    real, draws = _data(batch_real), _draws(width)
    settings = _settings("dc", batch_real)
    update = GradientMatching(real, _factors(settings.rank), settings, draws)
    network = draws.network(0)
    parameters = list(network.parameters())
    batches = [real.images[members[:batch_real]] for members in real.members]

    def ours() -> list[list[Tensor]]:
        return [update.real_gradients(network, parameters, batch, label) for label, batch in enumerate(batches)]

    def plain() -> list[tuple[Tensor, ...]]:
        return [
            torch.autograd.grad(F.cross_entropy(network(batch), torch.full((len(batch),), label)), parameters)
            for label, batch in enumerate(batches)
        ]

    difference = max(map(_difference, ours(), plain()))
    return {**_ratio([[_seconds(ours), _seconds(plain)] for _ in range(rounds)]), "difference": difference}


def memory(*, batch_real: int = 256, width: int = 128) -> float | None:
    """Returns how many MiB an iteration of LoDM takes above the data, at most; None where Linux does not say it."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a new process has no free memory to hide it in
        return pool.submit(_peak, batch_real, width).result()


def _peak(batch_real: int, width: int) -> float:
    torch.set_num_threads(1)
    settings = _settings("dm", batch_real)
    update = DistributionMatching(_data(batch_real), _factors(settings.rank), settings, _draws(width))
    torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8))  # loads what any network needs
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    update.update(0)
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    """Returns a count of memory of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _plain(real: RealImages, images: LowRankImages, settings: Settings, draws: Draws, iteration: int) -> None:
    """An iteration as one writes it first: a pass through the network for the real and the synthetic images of a class.

    The gradients are left in the factors.
    """
    network: Any = draws.network(iteration).requires_grad_(False)
    count = len(images) // _CLASSES
    loss = torch.zeros(())
    for label, members in enumerate(real.members):
        batch = real.batch(draws.real(members, settings.batch_real, iteration, label))
        drawn = draws.augmentation(settings.augmentation, batch.shape, iteration, label)
        synthetic = images.images(slice(label * count, (label + 1) * count))
        means = [
            network.features(augment(x, settings.augmentation, params=drawn)).flatten(1).mean(0)
            for x in (batch, synthetic)
        ]
        loss = loss + (means[0].detach() - means[1]).square().sum()
    images.zero_grad()
    loss.backward()


def _data(batch_real: int) -> RealImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_CLASSES * batch_real, 3, 32, 32, generator=generator)
    return RealImages(images, torch.arange(len(images)) % _CLASSES, range(_CLASSES), _CPU)


def _draws(width: int) -> Draws:
    from clpack.models import ConvNet

    def network() -> nn.Module:
        return ConvNet(_CLASSES, width=width)

    return Draws(0, network_factory(network, _CLASSES, (3, 32, 32)), _CPU)


def _settings(method: Any, batch_real: int) -> Settings:
    return Settings.for_method(method, rank=2, batch_real=batch_real)


def _factors(rank: int | None) -> LowRankImages:
    assert rank is not None
    count = LowRankImages(1, 3, 32, 32, rank).equivalent_images_per_class(1)
    images = LowRankImages(_CLASSES * count, 3, 32, 32, rank)
    generator = torch.Generator().manual_seed(1)
    images.fill_noise_(torch.randn(parameter.shape, generator=generator) for parameter in images.parameters())
    return images


def _gradients(images: LowRankImages) -> list[Tensor]:
    return [parameter.grad for parameter in images.parameters() if parameter.grad is not None]


def _difference(ours: Sequence[Tensor], plain: Sequence[Tensor]) -> float:
    mine, theirs = (torch.cat([each.flatten() for each in gradients]) for gradients in (ours, plain))
    return float((mine - theirs).norm() / theirs.norm())


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _ratio(times: list[list[float]]) -> dict[str, float]:
    ours, plain = (statistics.median(column) for column in zip(*times, strict=True))
    return {"ours": ours, "plain": plain, "ratio": ours / plain}


def main() -> None:
    """Prints the figures."""
    torch.set_num_threads(1)
    for what, figures in (("iteration of LoDM", speed()), ("gradients on real images in LoDC", gradient_matching())):
        print(
            f"{what}: clpack {figures['ours']:.2f} s, plain {figures['plain']:.2f} s, ratio {figures['ratio']:.2f}; "
            f"gradients differ by {figures['difference']:.1e}"
        )
    peak = memory()
    print("memory above the data: " + ("not known here" if peak is None else f"{peak:.0f} MiB"))


if __name__ == "__main__":
    main()
