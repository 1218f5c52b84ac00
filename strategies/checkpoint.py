"""Checkpoints from which a killed run goes on to bit-identical results.

Two states are kept. The state *between* experiences, in the file that the user names, is everything that the strategy
holds and the global random states. The state *inside* an experience, in a second file beside it, is the same taken
between two mini-batches, with the position in the epoch; it belongs to one state between experiences and is ignored
with any other. Resuming restores the first, lets Avalanche prepare the experience as it did originally (data,
loader, model, optimizer), and then puts the second in place of what the preparation and the lost steps had made.

Both are single files, written whole or not at all, and read without unpickling: see :mod:`clpack.strategies._state`.

What is repeated after a kill: the work since the last state that was written. Without :class:`CheckpointPlugin` that
is up to one experience and its evaluation; with it, up to ``save_every`` iterations or epochs, or the work between the
last of them and the next :func:`save_checkpoint`. Lines that loggers wrote in between are written again, unless the
logger defines ``checkpoint_state() -> dict`` and ``load_checkpoint_state(state)``, which stand in for its attributes.

What is not restored exactly: the order in which sets iterate. Only that of sets of up to 1000 integers is, by a search
that all but never fails.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from avalanche.models import DynamicModule, MultiTaskModule
from avalanche.training.templates.base import BaseTemplate
from torch import Tensor

from ._flat import attribute_values, flatten
from ._graph import ATOMS, walk
from ._state import read_header, read_state, write_state

__all__ = [
    "CheckpointPlugin",
    "ResumableLoader",
    "host_random_state",
    "maybe_load_checkpoint",
    "save_checkpoint",
    "set_host_random_state",
]

# Set anew by every call of `train` and `eval`; in an experience they are Avalanche's to prepare.
_TRANSIENT = frozenset(
    {
        *("experience", "adapted_dataset", "dataloader", "mbatch", "mb_output", "loss"),
        *("current_eval_stream", "_eval_streams"),
    }
)


def save_checkpoint(strategy: Any, fname: str | os.PathLike[str], *, unique_objects: Any = None) -> None:
    """Saves the state between two experiences; call it after ``train``, and after the ``eval`` calls that belong to it.

    Args:
        strategy: the strategy, with any plugins, metrics and loggers.
        fname: the file to write, atomically. Its folder is created if it is missing.
        unique_objects: the benchmark, or any object that is built anew before loading. Datasets that can be reached
            from it are referred to instead of stored. Default: None, datasets in buffers are stored by value.

    Raises:
        ValueError: if ``fname`` is a folder.
        TypeError: if the strategy holds something that can be neither stored nor recognized again, such as an open
            iterator; the message names where.
    """
    _save_between(strategy, _file(fname), unique_objects, token=uuid.uuid4().hex)
    _inside(fname).unlink(missing_ok=True)  # it belonged to the state that was just replaced


def maybe_load_checkpoint(
    strategy: Any,
    fname: str | os.PathLike[str],
    *,
    unique_objects: Any = None,
    map_location: torch.device | str | None = None,
) -> tuple[Any, int]:
    """Restores a strategy and the global random states from a checkpoint, if there is one.

    Build benchmark, model and strategy as in the first run, then call this, then train on
    ``benchmark.train_stream[start:]``. If the run was interrupted inside an experience, the next ``train`` call goes
    on in the middle of it.

    The saved values win: learning rate, ``train_mb_size``, ``train_epochs``, ``mem_size`` and all other attributes of
    strategy, optimizer and plugins become those of the first run, whatever the strategy was built with now. Going on
    to the same bits needs that, and changing one of them between two runs has no effect.

    Args:
        strategy: the strategy, freshly built. It is changed in place: it, its model, its plugins and its parameters
            (those that have not grown) stay the objects they are.
        fname: the file that :func:`save_checkpoint` or :class:`CheckpointPlugin` wrote.
        unique_objects: the benchmark if it was given when saving, None if not.
        map_location: the device for everything that was saved. Default: None, the devices it was saved from.

    Returns:
        The strategy, and the index of the next experience; ``(strategy, 0)`` if there is no file.

    Raises:
        ValueError: if ``fname`` is a folder; if the file is damaged or is not a checkpoint; if it was saved with
            another class of strategy, model, optimizer or plugin, with other shapes of parameters, or with a benchmark
            that differs in the number of its experiences, in their samples (which rows of the data), in their labels,
            or in the numbers that their transforms hold, such as a permutation of pixels.
    """
    path, inside = _file(fname), _inside(fname)
    if not path.exists():
        return strategy, 0
    header = read_header(path)
    resume = inside.exists() and read_header(inside)["token"] == header["token"]
    plugin = _find_plugin(strategy, path) if resume else None
    _check_parts(path, json.loads(header["parts"]), _fixed_parts(strategy, unique_objects))
    _load(strategy, path, unique_objects, map_location)
    if plugin is not None:
        plugin.resume_from(inside, unique_objects=unique_objects, map_location=map_location)
    return strategy, int(header["experience"])


class CheckpointPlugin(SupervisedPlugin):
    """Saves checkpoints inside experiences, from which :func:`maybe_load_checkpoint` lets the training go on.

    Put it first in the plugin list. A plugin that changes the data or the loader in the middle of an experience defines
    ``on_resume(strategy)`` and does it again there: it is called once the state inside is restored.

    Every ``train`` call begins by saving the state between experiences; after that
    the state inside is saved every so often. Train one experience per ``train`` call: in a call with several, only
    the first is saved inside, and a resumed run repeats the rest.

    Args:
        fname: the file that :func:`save_checkpoint` and :func:`maybe_load_checkpoint` are called with. The state inside
            an experience is saved beside it, with ``.inside`` before the suffix.
        save_every: save after every so many epochs or iterations of an experience. Default: 1.
        mode: what ``save_every`` counts. Default: ``"epoch"``.
        unique_objects: the benchmark, as in :func:`save_checkpoint`.

    Raises:
        ValueError: if ``fname`` is a folder, ``save_every`` is not a positive integer, or ``mode`` is neither
            ``"epoch"`` nor ``"iteration"``.

    Example:
        >>> plugin = CheckpointPlugin(path, save_every=100, mode="iteration", unique_objects=benchmark)
        >>> strategy = Naive(model=model, optimizer=optimizer, plugins=[plugin])
        >>> strategy, start = maybe_load_checkpoint(strategy, path, unique_objects=benchmark)
        >>> for experience in benchmark.train_stream[start:]:
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream)
        ...     save_checkpoint(strategy, path, unique_objects=benchmark)
    """

    def __init__(
        self,
        fname: str | os.PathLike[str],
        *,
        save_every: int = 1,
        mode: Literal["epoch", "iteration"] = "epoch",
        unique_objects: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(save_every, bool) or not isinstance(save_every, int) or save_every < 1:
            raise ValueError(f"save_every must be a positive integer, got {save_every!r}")
        if mode not in ("epoch", "iteration"):
            raise ValueError(f'mode must be "epoch" or "iteration", got {mode!r}')
        self.path = _file(fname)
        self.save_every = save_every
        self.mode = mode
        self.unique_objects = unique_objects
        self._token = ""
        self._experience = -1
        self._epochs = 0  # of this experience, the current one included; the clock may be set back
        self._resume: dict[str, Any] | None = None

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns nothing to save: where and how often to save is for each run to say."""
        return {}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Changes nothing."""

    def resume_from(self, path: Path, *, unique_objects: Any, map_location: torch.device | str | None) -> None:
        """Makes the next ``train`` call go on from a state inside an experience."""
        header = read_header(path)
        self._token = header["token"]
        self._resume = {"path": path, "unique_objects": unique_objects, "map_location": map_location, **header}

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Saves the state between experiences, unless it was just loaded."""
        self._experience = strategy.clock.train_exp_counter
        if self._resume is None:
            self._token = uuid.uuid4().hex
            _save_between(strategy, self.path, self.unique_objects, token=self._token)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Leaves out the epochs that are done; the restored state puts ``train_epochs`` back."""
        self._epochs = 0
        if self._resume is None:
            return
        current = str(strategy.experience.current_experience)
        if current != self._resume["trained"]:
            raise ValueError(
                f"the checkpoint was taken inside experience {self._resume['trained']}, but training goes on with "
                f"experience {current}; train on train_stream[start:] with the start that was returned on loading"
            )
        self._epochs = int(self._resume["epochs"])
        strategy.train_epochs -= self._epochs

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Puts a :class:`ResumableLoader` around the loader."""
        self._epochs += 1
        if not isinstance(strategy.dataloader, ResumableLoader):
            strategy.dataloader = ResumableLoader(strategy.dataloader, strategy, self)

    def is_due(self, strategy: Any, batches: int) -> bool:
        """Whether to save before the mini-batch that comes after ``batches`` of the current epoch."""
        clock = strategy.clock
        if clock.train_exp_counter != self._experience or clock.train_exp_iterations == 0:
            return False
        if self.mode == "iteration":
            return bool(clock.train_exp_iterations % self.save_every == 0)
        return batches == 0 and (self._epochs - 1) % self.save_every == 0

    def save_inside(self, strategy: Any, position: dict[str, Any]) -> None:
        """Saves the state inside the current experience, at a position of :class:`ResumableLoader`."""
        header = {
            "token": self._token,
            "trained": str(strategy.experience.current_experience),
            "epochs": str(self._epochs - 1),
        }
        _save(strategy, _inside(self.path), self.unique_objects, header, position)

    def restore_inside(self, strategy: Any) -> dict[str, Any] | None:
        """Restores the state that the run was resumed from, the first time it is called; returns its position."""
        if self._resume is None:
            return None
        resume, self._resume = self._resume, None
        root = _load(strategy, resume["path"], resume["unique_objects"], resume["map_location"])
        for plugin in strategy.plugins:
            if hasattr(plugin, "on_resume"):
                plugin.on_resume(strategy)
        position: dict[str, Any] = root["position"]
        return position


class ResumableLoader:
    """The strategy's loader, interrupted between mini-batches to save, and moved forward to resume.

    When the training loop asks for the next mini-batch, every hook of the last iteration has run: that is where a
    state is whole. To resume, the epoch's loader starts from the random states that it started from originally,
    gives its first mini-batches away, and goes on. A loader may draw in the middle of an epoch (replay shuffles a
    small memory again and again) and the model may draw in between (dropout): then the states are noted.

    Attributes:
        inner: the loader, any iterable of mini-batches with a length. If it draws from generators of its own, it
            gives them as ``generators``, a list of ``torch.Generator``. May be replaced before iterating.
    """

    def __init__(self, inner: Any, strategy: Any, plugin: CheckpointPlugin) -> None:
        self.inner = inner
        self._strategy = strategy
        self._plugin = plugin

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        position = self._plugin.restore_inside(self._strategy)
        generators = getattr(self.inner, "generators", [])
        resumed = position is not None
        if position is None:
            position = {"batches": 0, "draws": {}, "generators": [generator.get_state() for generator in generators]}
        for generator, state in zip(generators, position["generators"], strict=True):
            generator.set_state(state)
        iterator = self._forward(position) if position["batches"] else None
        noting = self._plugin.mode == "iteration"  # at the start of an epoch there is nothing to move forward
        replayed = None  # the state to which moving forward through the batches so far leads
        for batches in itertools.count(position["batches"]):
            position["batches"] = batches
            if batches < len(self) and self._plugin.is_due(self._strategy, batches) and not resumed:
                self._plugin.save_inside(self._strategy, position)
            resumed = False
            before = host_random_state() if noting else None
            iterator = iter(self.inner) if iterator is None else iterator
            try:
                minibatch = next(iterator)
            except StopIteration:
                return
            after = host_random_state() if noting else None
            if before != after:
                if before != replayed:
                    position["draws"][batches] = before
                replayed = after
            yield minibatch

    def _forward(self, position: dict[str, Any]) -> Iterator[Any]:
        """Returns an iterator after as many mini-batches as the position says; the global random states stay."""
        now = host_random_state()
        iterator: Any = None
        for batches in range(position["batches"]):
            if batches in position["draws"]:
                set_host_random_state(position["draws"][batches])
            iterator = iter(self.inner) if iterator is None else iterator
            next(iterator)
        set_host_random_state(now)
        forwarded: Iterator[Any] = iterator
        return forwarded


def _save_between(strategy: Any, path: Path, unique_objects: Any, *, token: str) -> None:
    header = {
        "token": token,
        "experience": str(strategy.clock.train_exp_counter),
        "parts": json.dumps(_fixed_parts(strategy, unique_objects)),
    }
    _save(strategy, path, unique_objects, header, None)


def _save(
    strategy: Any, path: Path, unique_objects: Any, header: dict[str, str], position: dict[str, Any] | None
) -> None:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    root = {
        "model": strategy.model,  # first, so that parameters are met where the live model has them
        "strategy": strategy,
        "random": {"host": host_random_state(), "cuda": cuda},
        "position": position,
    }
    write_state(path, header, root, unique_objects=unique_objects, skip=_is_transient)


def _load(strategy: Any, path: Path, unique_objects: Any, map_location: torch.device | str | None) -> dict[str, Any]:
    live = {"model": strategy.model, "strategy": strategy}
    root = read_state(path, live, unique_objects=unique_objects, skip=_is_transient, map_location=map_location)
    set_host_random_state(root["random"]["host"])
    for device, state in enumerate(root["random"]["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), device)
    return root


def _file(fname: str | os.PathLike[str]) -> Path:
    path = Path(fname)
    if path.is_dir():
        raise ValueError(f"fname must name a file, got the folder {path}; give {path / 'checkpoint.safetensors'}")
    return path


def _inside(fname: str | os.PathLike[str]) -> Path:
    path = Path(fname)
    return path.with_name(f"{path.stem}.inside{path.suffix}")


def _find_plugin(strategy: Any, path: Path) -> CheckpointPlugin:
    for plugin in strategy.plugins:
        if isinstance(plugin, CheckpointPlugin) and plugin.path == path:
            return plugin
    raise ValueError(
        f"the run of {path} was interrupted inside an experience, which only a strategy with "
        f"CheckpointPlugin({str(path)!r}, ...) among its plugins can resume; add it, or delete {_inside(path)} to "
        f"begin that experience again"
    )


def _is_transient(owner: object, name: str) -> bool:
    return isinstance(owner, BaseTemplate) and name in _TRANSIENT


def _check_parts(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    for part in sorted(saved.keys() | current.keys()):
        if saved.get(part) != current.get(part):
            raise ValueError(
                f"the run is not the one of the checkpoint {path}: its {part} is {current.get(part)}, the saved one "
                f"is {saved.get(part)}; build benchmark and strategy as before, or give another file name to start anew"
            )


def _fixed_parts(strategy: Any, unique_objects: Any) -> dict[str, Any]:
    """Returns what is the same in a run just built and one trained for long, to recognize another one by."""
    named = {"class": strategy, "optimizer": strategy.optimizer, "model": strategy.model}
    named |= {f"plugins[{position}]": plugin for position, plugin in enumerate(strategy.plugins)}
    parts: dict[str, Any] = {name: f"{type(part).__module__}.{type(part).__qualname__}" for name, part in named.items()}
    modules = dict(strategy.model.named_modules())
    growing = [name for name, module in modules.items() if _grows(module)]
    for name, parameter in strategy.model.named_parameters():
        if not any(name.startswith(f"{prefix}." if prefix else "") for prefix in growing):
            parts[f"parameter {name}"] = list(parameter.shape)
    for name, stream in getattr(unique_objects, "streams", {}).items():
        for position, experience in enumerate(stream):
            parts[f"unique_objects.{name}_stream[{position}]"] = _describe(experience.dataset)
    return parts


def _describe(dataset: Any) -> str:
    """Describes the data of an experience by rows, labels and the numbers in transforms, without reading an image."""
    leaves, leaf_of, row_of = flatten(dataset._flat_data)
    described, checksum = f"{len(dataset)} samples", hashlib.sha256(leaf_of.tobytes() + row_of.tobytes())
    for name in ("targets", "targets_task_labels"):
        labels = attribute_values(dataset._data_attributes.get(name, []))
        if np.issubdtype(labels.dtype, np.integer):
            described += f", {name} {np.unique(labels).tolist()}"
            checksum.update(labels.tobytes())
    for leaf in leaves:
        for _, value in walk(leaf.transforms):
            if isinstance(value, Tensor | np.ndarray):
                checksum.update(repr(value.tolist()).encode())
            elif isinstance(value, list | tuple) and ATOMS.issuperset(map(type, value)):
                checksum.update(repr(value).encode())
    return f"{described}, checksum {checksum.hexdigest()[:16]}"


def _grows(module: torch.nn.Module) -> bool:
    """Whether a module may change its own parameters when a new experience comes."""
    inherited = (DynamicModule.adaptation, MultiTaskModule.adaptation)
    return isinstance(module, DynamicModule) and type(module).adaptation not in inherited


def host_random_state() -> tuple[Any, ...]:
    """Returns the states of Python's, NumPy's and torch's global generators, comparable with ``==``."""
    name, key, *rest = np.random.mtrand.get_state()
    return random.getstate(), (name, np.asarray(key).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


def set_host_random_state(state: tuple[Any, ...]) -> None:
    python, (name, key, *rest), on_cpu = state
    random.setstate(python)
    np.random.mtrand.set_state((name, np.frombuffer(key, np.uint32), *rest))
    torch.set_rng_state(torch.frombuffer(bytearray(on_cpu), dtype=torch.uint8))
