"""From the names and options of a cell to the objects of a run."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import clpack.benchmarks
import clpack.models
import clpack.strategies
from clpack.benchmarks.registry import load_function
from clpack.names import unknown_name
from clpack.strategies.heads import with_head

from .config import RunConfig

__all__ = ["build_benchmark", "build_model", "build_strategy"]


def build_benchmark(config: RunConfig) -> Any:
    """Opens the stream of a cell. Where the stream takes a ``seed`` and none is set, it is the seed of the cell."""
    options = dict(config.stream.options)
    if "seed" in inspect.signature(load_function(config.stream.name)).parameters:
        options.setdefault("seed", config.seed)
    return clpack.benchmarks.get(config.stream.name, **options)


def build_model(config: RunConfig, benchmark: Any) -> nn.Module:
    """Builds the network of a cell for the images and classes of its stream.

    The option ``head`` picks the output layer (see :func:`clpack.strategies.with_head`, default ``"single"``); the
    others go to the class in ``clpack.models``.

    Raises:
        ValueError: if there is no model of this name.
    """
    if config.model.name not in clpack.models.__all__:
        raise ValueError(unknown_name("model", config.model.name, clpack.models.__all__))
    options = dict(config.model.options)
    head = options.pop("head", "single")
    image = benchmark.train_stream[0].dataset.eval()[0][0]
    num_classes = 1 + max(max(experience.classes_in_this_experience) for experience in benchmark.train_stream)
    if config.model.name == "MLP":
        options.setdefault("input_size", image.numel())
    else:
        options.setdefault("in_channels", image.shape[0])
        options.setdefault("input_size", image.shape[-1])
    return with_head(getattr(clpack.models, config.model.name)(num_classes, **options), head)


def build_strategy(
    config: RunConfig, model: nn.Module, *, plugins: Sequence[Any], evaluator: Any, device: torch.device
) -> Any:
    """Builds the strategy of a cell around a model."""
    return clpack.strategies.get(
        config.strategy.name,
        model=model,
        train_mb_size=config.train_mb_size,
        train_epochs=config.train_epochs,
        eval_mb_size=config.eval_mb_size,
        device=device,
        plugins=plugins,
        evaluator=evaluator,
        **config.strategy.options,
    )
