"""Everything random in a condensation, each draw from a stream of its own."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clpack.models import EVALUATION_NETWORKS, build_network
from clpack.names import unknown_name
from clpack.randomness import derive_seed, generator_for

from .augmentation import draw_augmentation

Network = str | Callable[[], nn.Module]


def network_factory(network: Network, num_classes: int, shape: Sequence[int]) -> Callable[[], nn.Module]:
    """Returns what builds a network for images ``(..., C, H, W)``, of its name or as it is."""
    check_network(network)
    if not isinstance(network, str):
        return network
    channels, height, width = shape[-3:]
    if height != width:
        raise ValueError(
            f"network {network!r} needs square images, got {height}x{width}; give a function that builds one"
        )
    return lambda: build_network(network, num_classes, input_size=height, in_channels=channels)


def check_network(network: Any) -> None:
    """Raises unless it is the name of a network, or what may be a function that builds one.

    Raises:
        ValueError: if there is no network of that name.
        TypeError: if it is neither.
    """
    if isinstance(network, str):
        if network not in EVALUATION_NETWORKS:
            raise ValueError(unknown_name("network", network, EVALUATION_NETWORKS))
    elif isinstance(network, nn.Module) or not callable(network):
        raise TypeError(f"network must be a name or a function that builds a network, got {type(network).__name__}")


def try_network(network: Network, num_classes: int, shape: Sequence[int], *, embeds: bool) -> nn.Module:
    """Builds a network and passes an image through it, on the CPU; global generators do not change.

    Args:
        network: see :func:`clpack.condensation.condense`.
        num_classes: outputs that it must have.
        shape: ``(C, H, W)`` of the image.
        embeds: whether its ``features`` are what is needed, and not its outputs.

    Raises:
        ValueError: if it has not what is needed, or cannot take the image.
        TypeError: if it is not a module.
    """
    factory = network_factory(network, num_classes, shape)
    with _seeded(0, torch.device("cpu")), torch.no_grad():
        built = _module(factory()).eval()
        if embeds and not hasattr(built, "features"):
            raise ValueError(
                "network must have features, the embedding of images, for method='dm' or 'herding'; "
                f"{type(built).__name__} has none"
            )
        used: Any = built.features if embeds else built
        try:
            found = used(torch.zeros(1, *shape)).shape
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"network cannot take images of shape {tuple(shape)}: {error}") from error
    if not embeds and (len(found) != 2 or found[1] < num_classes):
        raise ValueError(
            f"network must give an output for each of {num_classes} classes, shape (1, {num_classes}) for one image, "
            f"got {tuple(found)}"
        )
    return built


def describe_network(factory: Callable[[], nn.Module]) -> str:
    """Returns the layers of what a factory builds, and the shapes of its parameters."""
    network = random_network(factory, torch.device("cpu"), 0)
    return f"{network!r} {[tuple(parameter.shape) for parameter in network.parameters()]}"


def describe_data(images: Tensor, targets: Tensor) -> dict[str, Any]:
    """Returns the shape of images, and a digest of them and of their targets; values as in JSON."""
    digest = hashlib.sha256()
    for tensor in (images, targets):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return {"shape": list(images.shape), "sha256": digest.hexdigest()}


def random_network(factory: Callable[[], nn.Module], device: torch.device, seed: int, *names: str | int) -> nn.Module:
    """Builds a network whose weights are those of the stream called ``names``; global generators do not change."""
    with _seeded(derive_seed(seed, "network", *names), device):
        network = _module(factory())
    return network.to(device).train()


def _module(built: Any) -> nn.Module:
    if not isinstance(built, nn.Module):
        raise TypeError(f"network must be a function that builds a torch.nn.Module, it gave a {type(built).__name__}")
    return built


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
