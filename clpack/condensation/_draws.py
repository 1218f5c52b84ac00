"""Everything random in a condensation, each draw from a stream of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clpack.models import build_network
from clpack.randomness import derive_seed, generator_for

from .augmentation import draw_augmentation

Network = str | Callable[[], nn.Module]


def network_factory(network: Network, num_classes: int, shape: Sequence[int]) -> Callable[[], nn.Module]:
    """Returns what builds a network for images ``(..., C, H, W)``, of its name or as it is."""
    if not isinstance(network, str):
        return network
    channels, height, width = shape[-3:]
    if height != width:
        raise ValueError(
            f"network {network!r} needs square images, got {height}x{width}; give a function that builds one"
        )
    return lambda: build_network(network, num_classes, input_size=height, in_channels=channels)


def describe_network(network: Network, factory: Callable[[], nn.Module]) -> str:
    """Returns the layers of a network that is built by its name; of others nothing is known."""
    if not isinstance(network, str):
        return "custom"
    with torch.device("meta"):  # draws nothing
        return repr(factory())


def random_network(factory: Callable[[], nn.Module], device: torch.device, seed: int, *names: str | int) -> nn.Module:
    """Builds a network whose weights are those of the stream called ``names``; global generators do not change."""
    with _seeded(derive_seed(seed, "network", *names), device):
        network = factory()
    return network.to(device).train()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Lets layers, which draw from the global generators, draw from a given seed, on the device itself."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []), device:
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class Draws:
    """Draws for the iterations of one condensation.

    Streams are named by iteration and class, so an iteration can be repeated, and what is drawn for a class does not
    depend on the other classes.
    """

    def __init__(self, seed: int, factory: Callable[[], nn.Module], device: torch.device) -> None:
        self.seed = seed
        self.factory = factory
        self.device = device

    def generator(self, *names: str | int) -> torch.Generator:
        return generator_for(self.seed, "condensation", *names)

    def network(self, index: int) -> nn.Module:
        return random_network(self.factory, self.device, self.seed, index)

    def real(self, members: Tensor, count: int, *names: str | int) -> Tensor:
        """Chooses ``count`` of the members of a class, or all if there are fewer, in random order."""
        return members[self.order(len(members), "real", *names)[:count]]

    def order(self, count: int, *names: str | int) -> Tensor:
        return torch.randperm(count, generator=self.generator(*names))

    def augmentation(self, strategy: str, shape: Sequence[int], *names: str | int) -> dict[str, Any]:
        return draw_augmentation(strategy, shape, generator=self.generator("augmentation", *names))

    def start_epoch(self, max_start_epoch: int, iteration: int) -> int:
        return int(torch.randint(max_start_epoch, (), generator=self.generator("start", iteration)))

    def noise(self, shape: Sequence[int], *names: str | int) -> Tensor:
        return torch.randn(*shape, generator=self.generator("noise", *names))
