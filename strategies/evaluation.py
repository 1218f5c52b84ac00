"""Metrics of the papers as Avalanche plugin metrics: the accuracy matrix, what follows from it, and what a run costs.

Unlike Avalanche's stream accuracy these are unweighted means over experiences, and their names do not depend on the
experience that was evaluated last. Accuracies are fractions in [0, 1].
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from numpy.typing import NDArray
from torch import Tensor, nn

from clpack import metrics

__all__ = ["AccuracyMatrix", "ConfusionMatrix", "PhaseCosts", "average_accuracy_metrics", "phase_cost_metrics"]


class AccuracyMatrix(PluginMetric[NDArray[np.float64]]):
    """Records the accuracy on every experience after every training experience, and logs what follows from it.

    After each evaluation these values go to the loggers, for the experiences trained so far (``.../STREAM_stream``
    stands for ``eval_phase/test_stream``):

    * ``Average_Accuracy``, ``Forgetting`` (max minus last), ``Forgetting_First`` (first minus last, as Avalanche),
      ``Learning_Accuracy``, ``Backward_Transfer``;
    * ``Forward_Transfer``, if the stream was also evaluated before any training (``eval_every=0`` does).

    A value is left out while an accuracy that it needs was not measured. Of several evaluations after the same
    experience the last one counts. Once an experience was trained again, only the average accuracy is logged: the
    others are defined for experiences that come once.

    Args:
        stream_name: the stream to watch; evaluations of others are ignored.
    """

    suffix = ""  # of the names of all values

    def __init__(self, stream_name: str = "test") -> None:
        super().__init__()
        self.stream_name = stream_name
        self._order: list[int] = []  # experiences in the order of training
        self._accuracies: dict[tuple[int, int], float] = {}  # (experience, trained experiences) -> accuracy
        self._correct: Tensor | None = None
        self._total = 0

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Accuracies of shape ``(T, T)``: ``[i, j]`` on the i-th trained experience after training the j-th one.

        Experiences that were not trained yet follow in the order of the stream. What was not measured is NaN. Training
        an experience again adds a column, but no row.
        """
        experiences = self._rows()
        matrix = np.full((len(experiences), max(len(experiences), len(self._order))), np.nan)
        for (experience, trained), accuracy in self._accuracies.items():
            if trained:
                matrix[experiences.index(experience), trained - 1] = accuracy
        return matrix

    @property
    def untrained(self) -> NDArray[np.float64]:
        """Accuracies before any training, shape ``(T,)``, in the order of the rows of :attr:`matrix`."""
        return np.array([self._accuracies.get((experience, 0), np.nan) for experience in self._rows()])

    def _rows(self) -> list[int]:
        trained = list(dict.fromkeys(self._order))
        return trained + sorted({experience for experience, _ in self._accuracies} - set(trained))

    def reset(self) -> None:
        """Forgets the batches of the experience that is being evaluated."""
        self._correct, self._total = None, 0

    def result(self) -> NDArray[np.float64]:
        """Returns :attr:`matrix`."""
        return self.matrix

    def before_training_exp(self, strategy: Any) -> None:
        self._order.append(strategy.experience.current_experience)

    def before_eval_exp(self, strategy: Any) -> None:
        self.reset()

    def after_eval_iteration(self, strategy: Any) -> None:
        correct = (strategy.mb_output.argmax(dim=1) == strategy.mb_y).sum()
        self._correct = correct if self._correct is None else self._correct + correct
        self._total += len(strategy.mb_y)

    def after_eval_exp(self, strategy: Any) -> None:
        if strategy.experience.origin_stream.name == self.stream_name and self._correct is not None:
            place = (strategy.experience.current_experience, len(self._order))
            self._accuracies[place] = self._correct.item() / self._total

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        if strategy.experience is None or strategy.experience.origin_stream.name != self.stream_name:
            return []
        visits, seen = len(self._order), len(set(self._order))
        if not seen:
            return []
        matrix = self.matrix[:seen, :visits]
        wanted: dict[str, Callable[[], float]] = {
            "Average_Accuracy": lambda: metrics.average_accuracy(matrix),
            "Forgetting": lambda: metrics.forgetting(matrix),
            "Forgetting_First": lambda: metrics.forgetting(matrix, reference="first"),
            "Learning_Accuracy": lambda: metrics.learning_accuracy(matrix),
            "Backward_Transfer": lambda: metrics.backward_transfer(matrix),
            "Forward_Transfer": lambda: metrics.forward_transfer(matrix, self.untrained[:seen]),
        }
        if visits > seen:
            last = np.repeat(matrix[:, -1:], seen, axis=1)
            wanted = {"Average_Accuracy": lambda: metrics.average_accuracy(last)}
        values = []
        for name, compute in wanted.items():
            try:
                value = compute()
            except ValueError:  # an accuracy that it needs was not measured
                continue
            full_name = f"{name}{self.suffix}/eval_phase/{self.stream_name}_stream"
            values.append(MetricValue(self, full_name, value, strategy.clock.train_iterations))
        return values

    def __str__(self) -> str:
        return "Accuracy_Matrix"


class ConfusionMatrix(PluginMetric["NDArray[np.int64] | None"]):
    """Counts which class the samples of each class were taken for, in the latest evaluation of a stream.

    It is for streams whose samples all have one task label; nothing is logged.

    Args:
        stream_name: the stream to watch; evaluations of others are ignored.
    """

    def __init__(self, stream_name: str = "test") -> None:
        super().__init__()
        self.stream_name = stream_name
        self._targets: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._tasks: set[int] = set()
        self._begins = True  # whether an evaluation has begun, but no experience of the stream

    def reset(self) -> None:
        """Forgets the latest evaluation."""
        self._targets, self._outputs, self._tasks = [], [], set()

    def result(self) -> NDArray[np.int64] | None:
        """Returns the counts ``[class, class it was taken for]``, shape ``(K, K)`` for the labels below K.

        None if there was no evaluation, or samples had several task labels.
        """
        if not self._targets or len(self._tasks) > 1:
            return None
        targets, outputs = torch.cat(self._targets), torch.cat(self._outputs)
        n_classes = 1 + int(torch.maximum(targets, outputs).max())
        counts = (targets * n_classes + outputs).bincount(minlength=n_classes**2).view(n_classes, n_classes)
        matrix: NDArray[np.int64] = counts.cpu().numpy()
        return matrix

    def before_eval(self, strategy: Any) -> None:
        self._begins = True

    def before_eval_exp(self, strategy: Any) -> None:
        if strategy.experience.origin_stream.name == self.stream_name:
            if self._begins:
                self.reset()
                self._begins = False
            self._tasks |= set(strategy.experience.task_labels)

    def after_eval_iteration(self, strategy: Any) -> None:
        if strategy.experience.origin_stream.name == self.stream_name:
            self._targets.append(strategy.mb_y)
            self._outputs.append(strategy.mb_output.argmax(dim=1))

    def __str__(self) -> str:
        return "Confusion_Matrix"


def average_accuracy_metrics(*, stream_name: str = "test") -> list[PluginMetric[Any]]:
    """The metrics of the accuracy matrix, in the form that ``EvaluationPlugin`` takes.

    Args:
        stream_name: the stream to watch.

    Returns:
        A list with one :class:`AccuracyMatrix`.
    """
    return [AccuracyMatrix(stream_name)]


class PhaseCosts(PluginMetric[list[dict[str, Any]]]):
    """Seconds, peak memory and bytes of state of every training and evaluation phase.

    A phase is the training on one experience, with what plugins do to its data before, or one evaluation call.
    Evaluation inside training counts in both.
    After each, ``Seconds``, ``Peak_Memory_MiB`` and (after training) ``State_Bytes`` go to the loggers, named
    ``.../train_phase/ExpNNN`` or ``.../eval_phase/ExpNNN`` with the experience trained last.

    Peak memory is that of the GPU on CUDA, and else the resident set of the process: its peak within the phase where
    the system can reset it (Linux), its peak so far on Windows, and its size at the end of the phase elsewhere.

    Attributes:
        costs: one dictionary per phase: ``phase`` (``"train"`` or ``"eval"``), ``experience``, ``seconds``,
            ``peak_memory_bytes``, and ``state_bytes`` with the bytes of the ``model``, the ``optimizer`` and the
            ``plugins`` (tensors that they hold, and stored samples at the size of a decoded one).
    """

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[dict[str, Any]] = []
        self._started: dict[str, float] = {}
        self._peaks: dict[str, int] = {}  # of the phases that are open, before the last reset of the system's counter
        self._trained = -1

    def reset(self) -> None:
        """Does nothing: every phase starts anew by itself."""

    def result(self) -> list[dict[str, Any]]:
        """Returns :attr:`costs`."""
        return self.costs

    def before_training(self, strategy: Any) -> None:
        self._start("train", strategy.device)

    def before_training_exp(self, strategy: Any) -> None:
        self._trained = strategy.experience.current_experience
        if "train" not in self._started:  # the second experience of one call
            self._start("train", strategy.device)

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        return self._stop("train", strategy, state_bytes=state_bytes(strategy))

    def before_eval(self, strategy: Any) -> None:
        self._start("eval", strategy.device)

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        return self._stop("eval", strategy)

    def checkpoint_state(self) -> dict[str, Any]:
        """What a resumed run needs: clocks differ between processes, so times are kept as seconds gone by."""
        now = time.perf_counter()
        return {**vars(self), "_started": {phase: now - start for phase, start in self._started.items()}}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`checkpoint_state` returned."""
        now = time.perf_counter()
        self.__dict__.update(state, _started={phase: now - gone for phase, gone in state["_started"].items()})

    def _start(self, phase: str, device: torch.device) -> None:
        for open_phase, peak in self._peaks.items():
            self._peaks[open_phase] = max(peak, _peak_memory(device))
        _reset_peak_memory(device)
        self._peaks[phase] = 0
        self._started[phase] = time.perf_counter()

    def _stop(self, phase: str, strategy: Any, **more: Any) -> list[MetricValue]:
        if strategy.device.type == "cuda":
            torch.cuda.synchronize(strategy.device)
        seconds = time.perf_counter() - self._started.pop(phase)
        peak = max(self._peaks.pop(phase), _peak_memory(strategy.device))
        cost = {"phase": phase, "experience": self._trained, "seconds": seconds, "peak_memory_bytes": peak, **more}
        self.costs.append(cost)
        values = {"Seconds": seconds, "Peak_Memory_MiB": peak / 2**20}
        if more:
            values["State_Bytes"] = float(sum(more["state_bytes"].values()))
        where, step = f"{phase}_phase/Exp{max(self._trained, 0):03d}", strategy.clock.train_iterations
        return [MetricValue(self, f"{name}/{where}", value, step) for name, value in values.items()]

    def __str__(self) -> str:
        return "Phase_Costs"


def phase_cost_metrics() -> list[PluginMetric[Any]]:
    """What a run costs, in the form that ``EvaluationPlugin`` takes: a list with one :class:`PhaseCosts`."""
    return [PhaseCosts()]


def state_bytes(strategy: Any) -> dict[str, int]:
    """Returns the bytes that the model, the optimizer and the plugins of a strategy keep between experiences.

    Stored samples (replay buffers) count with the size of a decoded sample, wherever their pixels lie.
    """
    seen: set[int] = {id(strategy.evaluator)}
    model = [*strategy.model.parameters(), *strategy.model.buffers()]
    return {
        "model": sum(_nbytes(part, seen) for part in model),
        "optimizer": _nbytes(dict(strategy.optimizer.state), seen),
        "plugins": sum(_nbytes(vars(plugin), seen) for plugin in strategy.plugins if plugin is not strategy.evaluator),
    }


def _nbytes(value: Any, seen: set[int]) -> int:
    """Bytes of the tensors and samples within ``value``, each counted once."""
    if id(value) in seen or value is None or isinstance(value, (str, bytes, int, float, type)):
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, CLScenario):  # the benchmark is not the strategy's
        return 0
    if isinstance(value, AvalancheDataset):
        return len(value) * value[0][0].nbytes if len(value) and isinstance(value[0][0], Tensor) else 0
    return sum(_nbytes(part, seen) for part in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    elif type(value).__module__.partition(".")[0] in ("avalanche", "clpack"):
        yield from getattr(value, "__dict__", {}).values()


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # not permitted everywhere, then the peak is that of the process so far
            return


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
