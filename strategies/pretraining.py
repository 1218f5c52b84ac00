"""Weights for other runs to start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from safetensors.torch import load_file, save_file
from torch import nn

from clpack.files import atomic_path

__all__ = ["WEIGHTS_FILE", "PretrainingPlugin", "load_weights"]

WEIGHTS_FILE = "weights.safetensors"


class PretrainingPlugin(SupervisedPlugin):
    """Keeps the weights of the model, as they are after the latest training, in a file for other runs to start from.

    :class:`~clpack.strategies.SubnetworkPlugin` and :class:`~clpack.strategies.EpochLoss` take such a file as their
    ``pretrained_path``; :func:`safetensors.torch.load_file` reads it anywhere.

    Args:
        save_to: folder for the file ``weights.safetensors``: parameters and buffers by name, written atomically.
            Default: None, nothing is written.
    """

    def __init__(self, *, save_to: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self.save_to = save_to

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Writes the weights, after all plugins have had their say on them."""
        if self.save_to is None:
            return
        state = {name: value.detach().cpu().contiguous() for name, value in strategy.model.state_dict().items()}
        with atomic_path(Path(self.save_to) / WEIGHTS_FILE) as partial:
            save_file(state, partial)

    def checkpoint_state(self) -> dict[str, Any]:
        """Nothing of it belongs into a checkpoint: the folder may be another one after a resume."""
        return {}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads the weights of a network of :mod:`clpack.models`, but for its head, into one of the same kind.

    Args:
        model: the network; its ``linear`` head stays as it is.
        path: a safetensors file with the state of the other network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the weights are not those of such a network.
    """
    weights = {name: value for name, value in load_file(path).items() if not name.startswith("linear.")}
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith("linear.")}
    problems = [f"no {name}" for name in wanted if name not in weights]
    problems += [f"{name}, which the model has not" for name in weights if name not in wanted]
    problems += [
        f"{name} of shape {tuple(weights[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if problems:
        raise ValueError(f"{path} holds the weights of another network than {type(model).__name__}: {problems[0]}")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(weights[name])
