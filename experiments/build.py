"""From the names and options of a cell to the objects of a run, and the checks of both before anything runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import clpack.benchmarks
import clpack.models
import clpack.strategies
from clpack.condensation import CondensedSet, PixelImages
from clpack.names import unknown_name
from clpack.pruning import get_score
from clpack.strategies.heads import with_head

from .config import RunConfig, source_kind

__all__ = [
    "build_benchmark",
    "build_model",
    "build_strategy",
    "check_benchmark",
    "check_device",
    "check_model",
    "check_strategy",
    "check_weights",
    "feeds_stream",
    "kind_of_sources",
    "score_name",
    "stream_info",
]


def check_device(name: str, *, here: bool) -> None:
    """Raises unless ``name`` is a torch device.

    Args:
        name: e.g. ``"cpu"`` or ``"cuda:1"``.
        here: whether this machine has to have it.

    Raises:
        ValueError: if there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be one of torch, such as cpu, cuda or cuda:1, got {name!r}") from error
    n_gpus = torch.cuda.device_count()
    if here and device.type == "cuda" and (device.index or 0) not in range(n_gpus):
        raise ValueError(f"device is {name!r}, but torch sees {n_gpus} CUDA devices here; use --set device=cpu")


def feeds_stream(config: RunConfig) -> bool:
    """Returns whether the scores of the sources of a cell go to its stream; what others give goes to its strategy."""
    return kind_of_sources(config) == "Trace" and clpack.benchmarks.describe(config.stream.name).takes_scores


def kind_of_sources(config: RunConfig) -> str | None:
    """Returns what the sources of a cell are, see :func:`~clpack.experiments.config.source_kind`; None without any."""
    return source_kind(config.sources[0].strategy) if config.sources else None


def score_name(config: RunConfig) -> str:
    """Returns which score a cell takes from its sources.

    It is the option ``score`` of what the scores go to: of the strategy, or of the stream, with forgetting as default.
    """
    if feeds_stream(config):
        return str(config.stream.options.get("score", "forgetting"))
    default = clpack.strategies.describe(config.strategy.name).options["score"].default
    return str(config.strategy.options.get("score", default))


def stream_info(config: RunConfig) -> clpack.benchmarks.StreamInfo:
    """Returns the description of the stream of a cell."""
    return clpack.benchmarks.describe(config.stream.name, **config.stream.options)


def build_benchmark(config: RunConfig, scores: Any = None) -> Any:
    """Opens the stream of a cell. If no ``seed`` is set for the stream, it is the seed of the cell.

    Args:
        config: the cell.
        scores: shape ``(N,)``, for a cell whose stream takes the scores of its sources.
    """
    return clpack.benchmarks.get(config.stream.name, **_stream_options(config, scores))


def check_benchmark(config: RunConfig) -> None:
    """Raises what :func:`build_benchmark` would raise, without looking at any data."""
    scores = () if feeds_stream(config) else None
    if scores is not None:
        get_score(score_name(config))
    clpack.benchmarks.check(config.stream.name, **_stream_options(config, scores))


def build_model(config: RunConfig, benchmark: Any) -> nn.Module:
    """Builds the network of a cell for the images and classes of its stream.

    The option ``head`` picks the output layer (see :func:`clpack.strategies.with_head`, default ``"single"``); the
    others go to the class in ``clpack.models``.

    Raises:
        ValueError: if there is no model of this name, or an option has an impossible value.
        TypeError: if the model has no option of a given name.
    """
    image = benchmark.train_stream[0].dataset.eval()[0][0]
    num_classes = 1 + max(max(experience.classes_in_this_experience) for experience in benchmark.train_stream)
    return _model(config, image.shape, num_classes)


def check_model(config: RunConfig) -> None:
    """Raises what :func:`build_model` would raise, but for weights that are missing (see :func:`check_weights`).

    The stream is not opened, and no random numbers are drawn.
    """
    info = stream_info(config)
    with torch.device("meta"):
        _model(config, info.image_shape, info.n_classes)


def check_weights(config: RunConfig) -> None:
    """Raises unless the file with the weights that the network of a cell starts from, if it does, is at hand.

    Raises:
        FileNotFoundError: if it is missing; the message says where to get it.
        ValueError: if it has wrong content.
    """
    if config.model.name == "ImageNetResNet18" and config.model.options.get("pretrained", True):
        clpack.models.find_imagenet_weights(config.model.options.get("weights"))


def build_strategy(
    config: RunConfig,
    model: nn.Module,
    *,
    plugins: Sequence[Any],
    evaluator: Any,
    device: torch.device,
    from_sources: Mapping[str, Any] | None = None,
) -> Any:
    """Builds the strategy of a cell around a model.

    If no ``seed`` is set for a strategy that has one, it is the seed of the cell.

    Args:
        config: the cell.
        model: its network.
        plugins: further plugins, placed before those of the strategy.
        evaluator: an Avalanche ``EvaluationPlugin``.
        device: where the model is trained.
        from_sources: options that come from the sources of the cell: ``"scores"``, ``"condensed"`` or
            ``"pretrained_path"``.
    """
    return clpack.strategies.get(
        config.strategy.name,
        model=model,
        device=device,
        plugins=plugins,
        evaluator=evaluator,
        **_strategy_options(config, from_sources or {}),
    )


def check_strategy(config: RunConfig) -> None:
    """Raises what :func:`build_strategy` would raise, without a model.

    Raises:
        ValueError: if the cell has sources, and neither a stream nor a strategy that takes what they give.
    """
    stand_in: dict[str, Any] = {}
    if config.sources and not feeds_stream(config):
        name, value = {
            "Trace": ("scores", {}),
            "CondensedReplay": ("condensed", CondensedSet(PixelImages(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64))),
            "Pretraining": ("pretrained_path", ""),
        }[str(kind_of_sources(config))]
        if name not in clpack.strategies.describe(config.strategy.name).options:
            raise ValueError(
                f"row {config.row!r} has sources, but its strategy {config.strategy.name!r} does not take their "
                f"{name}; use Pruning for scores, CondensedReplay for condensed images, Subnetworks for pre-trained "
                "weights, or no sources"
            )
        stand_in = {name: value}
    clpack.strategies.check(config.strategy.name, **_strategy_options(config, stand_in))


def _stream_options(config: RunConfig, scores: Any) -> dict[str, Any]:
    options = {**config.stream.options, **({} if scores is None else {"scores": scores})}
    if clpack.benchmarks.describe(config.stream.name).takes_scores:
        options.pop("score", None)  # which one it is, only the table has to know
    if options.get("seed") is None:  # which would mean the state of torch's generator, whatever it is
        options["seed"] = config.seed
    return options


def _model(config: RunConfig, image_shape: Sequence[int], num_classes: int) -> nn.Module:
    name = config.model.name
    models = {each: cls for each in clpack.models.__all__ if isinstance(cls := getattr(clpack.models, each), type)}
    classifiers = [each for each, cls in models.items() if "num_classes" in inspect.signature(cls).parameters]
    if name not in classifiers:
        raise ValueError(unknown_name("model", name, classifiers))
    model_class = models[name]
    known = {"head", *inspect.signature(model_class).parameters} - {"num_classes"}
    options = dict(config.model.options)
    for option in options:
        if option not in known:
            raise TypeError(unknown_name(f"{name} option", option, sorted(known)))
    head = options.pop("head", "single")
    if name == "MLP":
        options.setdefault("input_size", math.prod(image_shape))
    else:
        options.setdefault("in_channels", image_shape[0])
        options.setdefault("input_size", image_shape[-1])
    return with_head(model_class(num_classes, **options), head)


def _strategy_options(config: RunConfig, from_sources: Mapping[str, Any]) -> dict[str, Any]:
    own = clpack.strategies.describe(config.strategy.name).options
    return {
        "train_mb_size": config.train_mb_size,
        "train_epochs": config.train_epochs,
        "eval_mb_size": config.eval_mb_size,
        **({"seed": config.seed} if "seed" in own else {}),
        **from_sources,
        **config.strategy.options,
    }
