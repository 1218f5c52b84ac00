"""Recording what training says of each sample: its loss, whether it was correct, and its margin, at every presentation.

A *presentation* is one appearance of a sample in a training mini-batch; what is recorded belongs to the very forward
pass that the update is made from. :class:`Trace` keeps all of it, :class:`OnlineTrace` only what one score needs; the
scores are the same.
"""

from __future__ import annotations

import inspect
import json
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clpack.files import atomic_path
from clpack.names import unknown_name

from ._running import Running, warn_undefined
from ._stats import read_stats, write_stats
from .scores import Score, Scores, get_score

__all__ = ["OnlineTrace", "Trace"]

State = dict[str, NDArray[Any]]

_FORMAT, _VERSION = "clpack trace", 1
_GROUP = 16  # mini-batches measured at once: a few large operations cost less than many small ones
_MAX_WAITING = 1 << 16  # presentations kept on the device before they are moved to the host
_CHANNELS = {"loss": np.float32, "correct": np.bool_, "margin": np.float32}


class _Recorder(ABC):
    """Takes mini-batches, and hands on presentations such that no sample occurs twice at once."""

    def __init__(self, num_samples: int) -> None:
        if num_samples < 1:
            raise ValueError(
                f"num_samples must be the number of samples of the data set, at least 1, got {num_samples}"
            )
        self.num_samples = num_samples
        self._length = np.zeros(num_samples, dtype=np.int64)
        self._first_seen = np.full(num_samples, -1, dtype=np.int64)
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._num_waiting = 0

    @property
    def length(self) -> NDArray[np.int64]:
        """The number of presentations of each sample, shape ``(N,)``."""
        self._flush()
        return _read_only(self._length)

    @property
    def first_seen(self) -> NDArray[np.int64]:
        """The order of first presentations, shape ``(N,)``: smaller numbers came earlier; -1 if there was none."""
        self._flush()
        return _read_only(self._first_seen)

    def record(self, ids: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Takes the outputs of one training mini-batch.

        The host does not wait for the device, but once in 65,536 presentations, and when something is read.

        Args:
            ids: integer tensor of shape ``(B,)``, rows of the original data set, in ``[0, num_samples)``. A sample
                may occur several times: each is a presentation. Rows with id -1 (replayed, synthetic) are ignored.
            logits: floating-point tensor of shape ``(B, C)``, the outputs before the update, or their log-softmax,
                which gives the same numbers. Half precision is converted to float32. Classes masked with ``-inf``
                take no part; with only the target left, the margin is ``inf`` and the sample correct.
            targets: integer tensor of shape ``(B,)``, the labels trained on.

        Raises:
            ValueError: if a shape is wrong, or an id or a target out of range. Of tensors on another device than the
                CPU, ids are checked when they are moved to the host, and targets are not.
            TypeError: if a tensor is of the wrong type.
        """
        self._check(ids, logits, targets)
        if self._batches and logits.shape[1] != self._batches[0][1].shape[1]:  # the model got new classes
            self._measure()
        device = logits.device
        ids, targets = (tensor.to(device, torch.int64, copy=True) for tensor in (ids, targets))
        self._batches.append((ids, logits.detach().to(torch.float32, copy=True), targets))
        self._num_waiting += len(ids)
        if len(self._batches) == _GROUP:
            self._measure()
        if self._num_waiting >= _MAX_WAITING:
            self._flush()

    def state_dict(self) -> State:
        """Returns everything recorded, by name; see :meth:`load_state_dict`."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continues from a :meth:`state_dict` of an object that was made with the same arguments.

        Raises:
            ValueError: if names or shapes are not those of this object.
        """
        own = self._arrays()
        if state.keys() != own.keys():
            raise ValueError(f"state must have the entries {sorted(own)}, got {sorted(state)}")
        for name, array in state.items():
            if np.shape(array)[-1:] != (self.num_samples,) or np.ndim(array) != own[name].ndim:
                raise ValueError(
                    f"state[{name!r}] must have {own[name].ndim} dimensions, the last of size {self.num_samples}, "
                    f"got shape {np.shape(array)}"
                )
        arrays = {name: np.array(array, dtype=own[name].dtype) for name, array in state.items()}
        length, first_seen = arrays.pop("length"), arrays.pop("first_seen")
        self._restore(arrays, length)
        self._length, self._first_seen = length, first_seen

    @abstractmethod
    def _append(self, ids: NDArray[np.int64], position: NDArray[np.int64], channels: State) -> None:
        """Takes one presentation of each of the samples ``ids``, which had ``position`` presentations before."""

    @abstractmethod
    def _content(self) -> State:
        """The recorded arrays, each of shape ``(..., N)``."""

    @abstractmethod
    def _restore(self, content: State, length: NDArray[np.int64]) -> None:
        """Takes over the arrays of :meth:`_content`, of so many presentations."""

    def _arrays(self) -> State:
        self._flush()
        return {"length": self._length, "first_seen": self._first_seen, **self._content()}

    def _check(self, ids: Tensor, logits: Tensor, targets: Tensor) -> None:
        for name, tensor in (("ids", ids), ("logits", logits), ("targets", targets)):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
            if tensor.is_floating_point() != (name == "logits"):
                kind = "a floating-point" if name == "logits" else "an integer"
                raise TypeError(f"{name} must be {kind} tensor, got dtype {tensor.dtype}")
        if logits.dim() != 2 or ids.shape != logits.shape[:1] or targets.shape != logits.shape[:1]:
            raise ValueError(
                "ids, logits and targets must have the shapes (B,), (B, C) and (B,), "
                f"got {tuple(ids.shape)}, {tuple(logits.shape)} and {tuple(targets.shape)}"
            )
        if ids.device.type == "cpu":
            self._check_range(ids.numpy())
        if targets.device.type == "cpu" and len(targets) and _largest(targets.numpy(), 0) >= logits.shape[1]:
            raise ValueError(
                f"targets must be from 0 to {logits.shape[1] - 1}, as logits has {logits.shape[1]} columns, "
                f"got {int(targets.min())} to {int(targets.max())}"
            )

    def _check_range(self, ids: NDArray[Any]) -> None:
        if len(ids) and _largest(ids, 1) > self.num_samples:
            raise ValueError(
                f"ids must be rows of the data set, from 0 to {self.num_samples - 1}, or -1 to be ignored, "
                f"got {ids.min()} to {ids.max()}"
            )

    def _measure(self) -> None:
        """Replaces the outputs of the latest mini-batches by what is recorded of them."""
        ids, logits, targets = (torch.cat(column) for column in zip(*self._batches, strict=True))
        self._batches.clear()
        column = targets[:, None]
        others = logits.scatter(1, column, -torch.inf).amax(dim=1)
        margin = logits.gather(1, column)[:, 0] - others
        loss = F.cross_entropy(logits, targets, reduction="none")
        self._waiting.append((ids, loss, logits.argmax(dim=1) == targets, margin))

    def _flush(self) -> None:
        """Moves what waits on the device to the host."""
        if self._batches:
            self._measure()
        if not self._waiting:
            return
        ids, *values = (torch.cat(column).cpu().numpy() for column in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._num_waiting = 0
        self._check_range(ids)
        known = ids >= 0
        ids = ids[known]
        channels = {name: value[known] for name, value in zip(_CHANNELS, values, strict=True)}
        so_far = int(self._length.sum())
        for turn in _turns(ids):
            rows = ids[turn]
            position = self._length[rows]
            new = position == 0
            self._first_seen[rows[new]] = so_far + turn[new]
            self._append(rows, position, {name: value[turn] for name, value in channels.items()})
            self._length[rows] = position + 1


class Trace(_Recorder):
    """The loss, the correctness and the margin of every sample at every presentation.

    It takes 9 bytes for each of ``T`` presentations of each of ``N`` samples, on the host.

    Args:
        num_samples: ``N``, the size of the original data set, before any pruning.
        num_presentations_hint: how many presentations to expect, usually the number of epochs. With the right number
            the arrays need not grow. Default: they double as needed.

    Attributes:
        metadata: what to know about the run (data set, model, seed, ...), as JSON holds it; saved with the trace.

    Raises:
        ValueError: if a number is less than 1.
    """

    def __init__(self, num_samples: int, *, num_presentations_hint: int | None = None) -> None:
        super().__init__(num_samples)
        if num_presentations_hint is not None and num_presentations_hint < 1:
            raise ValueError(f"num_presentations_hint must be at least 1, got {num_presentations_hint}")
        self.metadata: dict[str, Any] = {}
        self._num_presentations = 0
        self._channels: State = {}
        self._reserve(num_presentations_hint or 1)

    @property
    def loss(self) -> NDArray[np.float32]:
        """Cross-entropy, shape ``(T, N)``, where ``T`` is the largest :attr:`length`; NaN where there is none."""
        return self._channel("loss")

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the largest output was that of the target, the first one in a tie; False where there is none."""
        return self._channel("correct")

    @property
    def margin(self) -> NDArray[np.float32]:
        """Output of the target minus the largest of the others; NaN where there is none."""
        return self._channel("margin")

    def score(self, name: str, **options: Any) -> Scores:
        """Returns a score that needs nothing but the trace, float64 of shape ``(N,)``.

        Args:
            name: of the score, see :data:`clpack.pruning.SCORES`.
            options: of its function.

        Raises:
            ValueError: if there is no such score, it needs more than a trace, or an option is out of range.
            TypeError: if it has no such option, or an option is of the wrong type.
        """
        score, _ = _trace_score(name)
        _check_options(name, score, options)
        return score.function(self._channel(score.requires[0]), length=self.length, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the trace to a compressed ``.npz`` file, atomically."""
        header = json.dumps({"format": _FORMAT, "version": _VERSION, "metadata": self.metadata})
        arrays: dict[str, Any] = {"header": np.array(header), **self._arrays()}
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what :meth:`save` wrote; recording can go on.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or of another format or version.
        """
        try:
            with Path(path).open("rb") as file:
                stored = np.load(file, allow_pickle=False)
                state = {name: stored[name] for name in stored.files}
            header = json.loads(str(state.pop("header")))
            found = header["format"], header["version"]
        except (zipfile.BadZipFile, AttributeError, EOFError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged or no trace ({error!r}); expected a file of Trace.save") from error
        if found != (_FORMAT, _VERSION):
            raise ValueError(f"{path} must be a {_FORMAT!r} of version {_VERSION}, got {found[0]!r} of {found[1]!r}")
        trace = cls(len(state.get("length", ())))
        trace.load_state_dict(state)
        trace.metadata = header["metadata"]
        return trace

    @classmethod
    def from_stats_pickle(cls, path: str | os.PathLike[str], *, num_samples: int | None = None) -> Self:
        """Reads a ``..._stats_dict.pkl`` of the authors' code of example forgetting or MLI.

        The file is read without running anything in it. Its accuracies of the model over time come into
        :attr:`metadata`, under ``"train"`` and ``"test"``.

        Args:
            path: the file.
            num_samples: the size of the original data set. Default: that of the file, one more than the largest
                index in it.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, of another layout, or holds anything but numbers, strings, lists,
                dictionaries and NumPy arrays and scalars; or if it has an index beyond ``num_samples``.
        """
        stats = read_stats(path)
        accuracies = {str(key): stats.pop(key)[-1].tolist() for key in ("train", "test") if key in stats}
        ids = np.array(list(stats), dtype=np.int64)
        if len(ids) == 0:
            raise ValueError(f"{path} holds no sample, expected at least one")
        lengths = np.array([[len(part) for part in entry] for entry in stats.values()])
        if lengths.ndim != 2 or lengths.shape[1] != len(_CHANNELS) or (lengths != lengths[:, :1]).any():
            raise ValueError(f"{path} must hold three lists of equal length for each sample, got others")
        if num_samples is not None and ids.max() >= num_samples:
            raise ValueError(f"num_samples is {num_samples}, but {path} has a sample {ids.max()}; give a larger one")
        trace = cls(num_samples or int(ids.max()) + 1, num_presentations_hint=max(1, int(lengths.max())))
        counts = lengths[:, 0]
        columns = np.repeat(ids, counts)
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        trace._extend(int(counts.max()))
        for channel, values in zip(_CHANNELS, zip(*stats.values(), strict=True), strict=True):
            trace._channels[channel][rows, columns] = np.concatenate(values)
        trace._length[ids] = counts
        trace._first_seen[ids[counts > 0]] = np.arange((counts > 0).sum())
        trace.metadata = accuracies
        return trace

    def to_stats_pickle(self, path: str | os.PathLike[str]) -> None:
        """Writes the file of :meth:`from_stats_pickle`, atomically; samples that were never presented are left out."""
        length, first_seen = self.length, self.first_seen
        ids = np.flatnonzero(length)
        ids = ids[np.argsort(first_seen[ids])]
        channels = [getattr(self, name)[:, ids].T.astype(kind).tolist() for name, kind in _STATS_KINDS.items()]
        stats: dict[int | str, list[list[Any]]] = {
            sample: [part[:count] for part in parts]
            for sample, count, *parts in zip(ids.tolist(), length[ids].tolist(), *channels, strict=True)
        }
        for name in ("train", "test"):
            stats[name] = [[], list(self.metadata.get(name, []))]
        write_stats(path, stats)

    def _channel(self, name: str) -> NDArray[Any]:
        self._flush()
        return _read_only(self._channels[name][: self._num_presentations])

    def _append(self, ids: NDArray[np.int64], position: NDArray[np.int64], channels: State) -> None:
        self._extend(int(position.max()) + 1)
        for name, values in channels.items():
            self._channels[name][position, ids] = values

    def _extend(self, num_presentations: int) -> None:
        """Makes sure that there are so many rows, filled with what stands for no presentation."""
        if num_presentations <= self._num_presentations:
            return
        capacity = len(self._channels["loss"])
        if num_presentations > capacity:
            self._reserve(max(num_presentations, 2 * capacity))
        added = slice(self._num_presentations, num_presentations)
        self._channels["loss"][added] = np.nan
        self._channels["margin"][added] = np.nan
        self._num_presentations = num_presentations

    def _reserve(self, capacity: int) -> None:
        for name, dtype in _CHANNELS.items():
            grown: NDArray[Any] = np.zeros(
                (capacity, self.num_samples), dtype=dtype
            )  # rows take memory when they are first written
            if name in self._channels:
                grown[: self._num_presentations] = self._channels[name][: self._num_presentations]
            self._channels[name] = grown

    def _content(self) -> State:
        return {name: array[: self._num_presentations] for name, array in self._channels.items()}

    def _restore(self, content: State, length: NDArray[np.int64]) -> None:
        rows = {name: len(array) for name, array in content.items()}
        if set(rows.values()) != {length.max()}:
            raise ValueError(f"state must have one row for each of the {length.max()} presentations, got {rows}")
        self._channels = content
        self._num_presentations = len(content["loss"])


class OnlineTrace(_Recorder):
    """One score, kept up to date while training, in ``O(N)`` memory instead of ``O(T N)``.

    Its numbers are those of a :class:`Trace` of the same presentations, bit for bit in float64.

    Args:
        num_samples: ``N``, the size of the original data set, before any pruning.
        score: one of :data:`clpack.pruning.SCORES` that needs nothing but a trace.
        options: of the function of the score, without those that need the whole trace (``window``, ``interval``).

    Raises:
        ValueError: if there is no such score, it needs more than a trace, or an option is out of range or needs the
            whole trace.
        TypeError: if it has no such option, or an option is of the wrong type.
    """

    def __init__(self, num_samples: int, score: str, **options: Any) -> None:
        super().__init__(num_samples)
        entry, running = _trace_score(score)
        _check_options(score, entry, options)
        if others := options.keys() - inspect.signature(running).parameters:
            raise ValueError(
                f"score {score!r} takes {' and '.join(sorted(others))} only with a whole trace; "
                "record a Trace, and call its score method"
            )
        self._channel = entry.requires[0]
        self._running = running(num_samples, **options)

    def score(self) -> Scores:
        """Returns the score of each sample, float64 of shape ``(N,)``; NaN where there is none."""
        length = self.length
        scores = self._running.result(length)
        if self._channel != "correct":
            warn_undefined(scores, length >= self._running.needed, self._channel, stacklevel=2)
        return scores

    def _append(self, ids: NDArray[np.int64], position: NDArray[np.int64], channels: State) -> None:
        self._running.update(ids, position, channels[self._channel])

    def _content(self) -> State:
        return {name: value for name, value in vars(self._running).items() if isinstance(value, np.ndarray)}

    def _restore(self, content: State, length: NDArray[np.int64]) -> None:
        vars(self._running).update(content)


_RECORDED = (*_CHANNELS, "length")  # arguments of scores that are no options: the trace has them
_STATS_KINDS = {"loss": float, "correct": int, "margin": float}


def _largest(numbers: NDArray[Any], shift: int) -> int:
    """Returns the largest of ``numbers + shift``, where negative ones count as huge: one pass checks both ends."""
    return int(np.maximum.reduce((numbers.astype(np.int64, copy=False) + shift).view(np.uint64)))


def _turns(ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Splits positions into turns: turn ``r`` holds the ``r``-th occurrence of each id, for those that have one."""
    if len(ids) == 0:
        return []
    place = np.arange(len(ids))
    order = np.sort(ids * len(ids) + place) % len(ids)  # a stable argsort, several times as fast
    starts = np.where(np.diff(ids[order], prepend=-1) != 0, place, 0)
    occurrence = place - np.maximum.accumulate(starts)
    by_turn = order[np.argsort(occurrence, kind="stable")]
    return np.split(by_turn, np.cumsum(np.bincount(occurrence))[:-1])


def _trace_score(name: str) -> tuple[Score, Callable[..., Running]]:
    score = get_score(name)
    if score.running is None:
        raise ValueError(
            f"score {name!r} needs {', '.join(score.requires)}, which no trace holds; "
            f"call clpack.pruning.{score.function.__name__}"
        )
    return score, score.running


def _check_options(name: str, score: Score, options: Mapping[str, Any]) -> None:
    """Complains of options that the function of a trace score does not have, and of what is no number of rows."""
    known = [option for option in inspect.signature(score.function).parameters if option not in _RECORDED]
    for option, value in options.items():
        if option not in known:
            raise TypeError(unknown_name(f"option of score {name!r}", option, known))
        if option not in ("window", "interval") or (option == "window" and value is None):
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{option} must be a number of presentations, at least 1, got {value!r}")


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
