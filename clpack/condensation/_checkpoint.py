"""Files from which an interrupted condensation goes on to the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clpack.files import atomic_path

from ._draws import describe_data
from ._updates import Updater
from .condensed_set import CondensedSet
from .trajectories import ExpertBuffer

__all__ = ["describe_run", "restore", "save"]


def describe_run(
    images: Tensor, targets: Tensor, condensed: CondensedSet, network: str, experts: ExpertBuffer | None
) -> str:
    """Returns what a run depends on, as JSON: a checkpoint fits a run of the same text."""
    run = {
        **condensed.metadata,
        "classes": list(dict.fromkeys(condensed.targets.tolist())),
        "data": describe_data(images, targets),
        "network": network,
    }
    if experts is not None:
        run["experts"] = {"number": len(experts), "settings": experts.settings}
    return json.dumps(run, sort_keys=True)


def save(path: Path, updater: Updater, iteration: int, run: str) -> None:
    """Writes a checkpoint, atomically."""
    tensors = {}
    for name, tensor in _state(updater).items():
        tensors[name] = tensor.detach().cpu().contiguous()
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"iteration": str(iteration), "run": run})


def restore(path: Path, updater: Updater, run: str) -> int:
    """Loads a checkpoint; returns the iterations done.

    Raises:
        ValueError: if it is damaged or of another run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("run") != run:
                raise ValueError(
                    f"checkpoint {path} is of another run; remove it or name another file.\n"
                    f"It has {metadata.get('run')},\nthis run {run}"
                )
            with torch.no_grad():
                for name, tensor in _state(updater).items():
                    tensor.copy_(file.get_tensor(name))
    except SafetensorError as error:
        raise ValueError(f"checkpoint {path} is damaged ({error}); remove it to start anew") from None
    return int(metadata["iteration"])


def _state(updater: Updater) -> dict[str, Tensor]:
    """Returns all tensors that an update changes: those that are learned, and their momentum."""
    tensors: dict[str, Tensor] = {}
    for index, optimizer in enumerate(updater.optimizers):
        for position, parameter in enumerate(optimizer.param_groups[0]["params"]):
            tensors[f"{index}.{position}"] = parameter
            if updater.settings.momentum:
                # A zero buffer gives the first step that no buffer gives: there is no dampening.
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                tensors[f"{index}.{position}.momentum"] = state["momentum_buffer"]
    return tensors
