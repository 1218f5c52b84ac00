"""The state of a strategy at one moment, held in memory, to go back to."""

from __future__ import annotations

import json
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base import BaseTemplate
from torch import Tensor
from torch.utils.data import Dataset

from ._decoder import Decoder
from ._encoder import Encoder
from ._graph import References, is_from
from .checkpoint import host_random_state, set_host_random_state
from .loader import loader_generators

__all__ = ["Snapshot"]


class Snapshot:
    """Model, optimizer, plugins and random generators as they are now.

    Plugins bring what hangs on them: learning-rate schedulers, the clock, importances, buffers. Datasets are not
    copied. The evaluator stays out: to leave metrics as they are, switch it off in between.

    It is made of plain values, so a checkpoint holds it too.

    Args:
        strategy: a strategy within an experience.
        without: a plugin that is not part of the state.

    Raises:
        TypeError: if the strategy holds something whose state cannot be taken, such as an open iterator.
    """

    def __init__(self, strategy: Any, *, without: object) -> None:
        self._datasets: list[Any] = []
        encoder = Encoder(_SharedDatasets(self._datasets), _belongs_to_strategy)
        try:
            (self._root,) = encoder.value(_parts(strategy, without), "")
        except TypeError as error:
            raise TypeError(f"the strategy could not go back to this state: {error}") from error
        self._records = json.dumps(encoder.records)
        self._starts, contents = encoder.blocks()
        self._contents: list[Tensor] = [content.clone() for content in contents]  # on the CPU they are views
        self._random = host_random_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._generators = [generator.get_state() for generator in loader_generators(strategy)]

    def restore(self, strategy: Any, *, without: object) -> None:
        """Puts everything back, in place; the arguments are those of the constructor."""
        live = _parts(strategy, without)
        decoder = Decoder(
            json.loads(self._records),
            self._starts,
            self._contents,
            live,
            references=_SharedDatasets(self._datasets),
            skip=_belongs_to_strategy,
            map_location=None,
        )
        decoder.value([self._root], live, "")
        set_host_random_state(self._random)
        for device, state in enumerate(self._cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state.cpu(), device)
        for generator, state in zip(loader_generators(strategy), self._generators, strict=True):
            generator.set_state(state)


class _SharedDatasets(References):
    """Refers to datasets, and to what else the benchmark is made of, by their position in a list."""

    def __init__(self, datasets: list[Any]) -> None:
        super().__init__(None)
        self._datasets = datasets
        self._positions = {id(dataset): position for position, dataset in enumerate(datasets)}

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Dataset) or is_from(value, ("avalanche.benchmarks",))

    def describe(self, value: object) -> dict[str, Any]:
        position = self._positions.setdefault(id(value), len(self._datasets))
        if position == len(self._datasets):
            self._datasets.append(value)
        return {"position": position}

    def resolve(self, description: dict[str, Any]) -> Any:
        return self._datasets[description["position"]]


def _parts(strategy: Any, without: object) -> dict[str, Any]:
    plugins = [plugin for plugin in strategy.plugins if plugin is not without]
    return {
        "model": strategy.model,  # first, so that parameters are met where the model has them
        "optimizer": strategy.optimizer,
        "plugins": [plugin for plugin in plugins if not isinstance(plugin, EvaluationPlugin)],
    }


def _belongs_to_strategy(owner: object, name: str) -> bool:
    """Whether an attribute is one of the strategy or of its evaluator, to which plugins may refer."""
    return isinstance(owner, BaseTemplate | EvaluationPlugin)
