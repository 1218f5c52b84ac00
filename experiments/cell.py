"""One cell from start to finish: build, resume, train, evaluate, record."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import avalanche
import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import TensorboardLogger, TextLogger
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base_sgd import PeriodicEval

import clpack
import clpack.metrics
from clpack.benchmarks.parts import held_out_benchmark, thinned_benchmark
from clpack.randomness import derive_seed
from clpack.strategies import (
    AccuracyMatrix,
    AdversarialTrainingPlugin,
    AttackedAccuracyMatrix,
    CheckpointPlugin,
    ConfusionMatrix,
    InMemoryLoaderPlugin,
    LogFile,
    MetricsCSVLogger,
    PhaseCosts,
    RandomStreamsPlugin,
    TAGPlugin,
    maybe_load_checkpoint,
    save_checkpoint,
)

from .build import build_benchmark, build_model, build_strategy, check_device, feeds_stream
from .config import RunConfig
from .metrics import METRICS
from .samples import (
    memory_metrics,
    sample_metrics,
    sample_records,
    save_galleries,
    save_into,
    source_scores,
    strategy_options_of_sources,
)
from .store import ResultStore

__all__ = ["fingerprint", "run_cell"]

_CONFUSION_CLASSES = 20  # at most, to be recorded


def run_cell(config: RunConfig, store: ResultStore, *, checkpoint_every: int = 1000) -> None:
    """Trains the model on every experience in turn, evaluates all of them after each, and stores the result.

    An interrupted cell goes on from its checkpoint, to the same result. The global random generators are seeded.

    Args:
        config: the cell.
        store: where its folder lies.
        checkpoint_every: iterations between two checkpoints inside an experience; there is one after each
            experience in any case. Default 1000.

    Raises:
        ValueError: if the device is not there, or a source is not finished or was trained on other data.
    """
    check_device(config.device, here=True)
    folder = store.start(config)
    with _exact_arithmetic(config):
        benchmark = build_benchmark(config, source_scores(config, store)[0] if feeds_stream(config) else None)
        if config.samples_per_class is not None:
            benchmark = thinned_benchmark(benchmark, config.samples_per_class)
        if config.val_fraction:
            benchmark = held_out_benchmark(benchmark, config.val_fraction)
        data = fingerprint(benchmark)
        from_sources = strategy_options_of_sources(config, store, data)
        RNGManager.set_random_seeds(derive_seed(config.seed, "initialization") % 2**32)  # NumPy takes 32 bits
        model = build_model(config, benchmark)

        state = folder / "checkpoint" / "state.safetensors"
        matrix, confusion = AccuracyMatrix(), ConfusionMatrix()
        costs = PhaseCosts()
        evaluator = EvaluationPlugin(
            accuracy_metrics(epoch=True, experience=True, stream=True),
            loss_metrics(epoch=True, experience=True),
            matrix,
            confusion,
            costs,
            loggers=[
                TextLogger(LogFile(folder / "log.txt")),
                MetricsCSVLogger(folder / "metrics.csv"),
                TensorboardLogger(folder / "tb"),
            ],
        )
        plugins = [
            CheckpointPlugin(state, save_every=checkpoint_every, mode="iteration", unique_objects=benchmark),
            RandomStreamsPlugin(config.seed),
            InMemoryLoaderPlugin(),
            _ProgressPlugin(config, store, config.cycles * len(benchmark.train_stream)),
            *([PeriodicEval(1, do_initial=False)] if config.measure_train else []),
        ]
        strategy = build_strategy(
            config,
            model,
            plugins=plugins,
            evaluator=evaluator,
            device=torch.device(config.device),
            from_sources=from_sources,
        )
        save_into(folder, strategy)
        further = _further_matrices(config, strategy, benchmark)
        evaluator.metrics += further.values()

        strategy, start = maybe_load_checkpoint(strategy, state, unique_objects=benchmark)
        for experience in (list(benchmark.train_stream) * config.cycles)[start:]:
            strategy.train(
                experience,
                eval_streams=[benchmark.train_stream] if config.measure_train else None,
                drop_last=config.drop_last,
            )
            strategy.eval(benchmark.test_stream)
            if "synthetic" in further:
                strategy.eval(benchmark.test_synthetic_stream)
            save_checkpoint(strategy, state, unique_objects=benchmark)
        save_galleries(folder, strategy, benchmark)
        records = sample_records(strategy, benchmark)
        metrics = sample_metrics(records) | memory_metrics(strategy)
        result = _result(config, matrix.matrix, data, records, metrics, further)
        counts = confusion.result()
        if counts is not None and len(counts) <= _CONFUSION_CLASSES:
            result["confusion_matrix"] = counts.tolist()
        for plugin in strategy.plugins:
            if isinstance(plugin, TAGPlugin):
                result["task_weights"] = _rows(plugin.task_weights().numpy())
        store.finish(config, result, _environment(config, costs.costs))


def fingerprint(benchmark: Any) -> dict[str, Any]:
    """Returns what identifies the data of a benchmark.

    Returns:
        The number of training and test samples per experience, and the SHA-256 of, for each experience, up to
        1000 evenly spaced targets and the first, middle and last image as evaluation sees them; and which data it is,
        if the benchmark says so.
    """
    digest = hashlib.sha256()
    counts: dict[str, list[int]] = {"train": [], "test": []}
    for name, stream in (("train", benchmark.train_stream), ("test", benchmark.test_stream)):
        for experience in stream:
            samples = experience.dataset.eval()
            n = len(samples)
            counts[name].append(n)
            targets = samples.targets
            digest.update(repr([int(targets[i]) for i in range(0, n, math.ceil(n / 1000))]).encode())
            for index in sorted({0, n // 2, n - 1}):
                digest.update(np.ascontiguousarray(samples[index][0]).tobytes())
    found = {"sha256": digest.hexdigest(), "n_train": counts["train"], "n_test": counts["test"]}
    described = getattr(benchmark, "data_description", None)
    return found if described is None else {**found, "description": described}


def _further_matrices(config: RunConfig, strategy: Any, benchmark: Any) -> dict[str, AccuracyMatrix]:
    """Returns the accuracies that a cell measures besides those on its test stream, by the begin of their metrics.

    ``"train"`` are those on its training stream, if it measures them; ``"attacked"`` those on test images that are
    attacked as the training images are, if these are; ``"synthetic"`` those on synthetic test images, if the benchmark
    has any.
    """
    matrices: dict[str, AccuracyMatrix] = {}
    if config.measure_train:
        matrices["train"] = _TrainingAccuracy()
    for plugin in strategy.plugins:
        if isinstance(plugin, AdversarialTrainingPlugin):
            matrices["attacked"] = AttackedAccuracyMatrix(plugin.attack, seed=config.seed)
    if "test_synthetic" in benchmark.streams:
        matrices["synthetic"] = AccuracyMatrix("test_synthetic")
    return matrices


class _TrainingAccuracy(AccuracyMatrix):
    """The accuracy on the training samples of every experience, without augmentation, and how it went epoch by epoch.

    Attributes:
        curve: the accuracies on all experiences, in their order, at each evaluation of the training stream.
    """

    def __init__(self) -> None:
        super().__init__("train")
        self.curve: list[list[float]] = []

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        values = super().after_eval(strategy)
        if strategy.experience.origin_stream.name == self.stream_name:
            self.curve.append(self.matrix[:, len(self._order) - 1].tolist())
        return values


class _ProgressPlugin(SupervisedPlugin):
    """Tells the store, at most once a second, how far the run is; never less than before.

    Pruning sets the clock of the training back after it has scored the samples.
    """

    def __init__(self, config: RunConfig, store: ResultStore, n_experiences: int) -> None:
        super().__init__()
        self._config = config
        self._store = store
        self._n_experiences = n_experiences
        self._told_at = -math.inf
        self._told = 0.0

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if now - self._told_at < 1:
            return
        self._told_at = now
        within = strategy.clock.train_exp_iterations / (len(strategy.dataloader) * strategy.train_epochs)
        fraction = (strategy.clock.train_exp_counter + min(within, 1.0)) / self._n_experiences
        self._told = max(self._told, fraction)
        self._store.set_progress(self._config, self._told)

    def checkpoint_state(self) -> dict[str, Any]:
        """Nothing of it belongs into a checkpoint."""
        return {}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


@contextlib.contextmanager
def _exact_arithmetic(config: RunConfig) -> Iterator[None]:
    """Fixes the number of threads and, on a GPU, asks for deterministic kernels wherever there are any."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.num_threads)
    if config.device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _result(
    config: RunConfig,
    matrix: np.ndarray[Any, Any],
    data: dict[str, Any],
    records: dict[str, list[dict[str, Any]]],
    metrics: dict[str, float],
    further: dict[str, AccuracyMatrix],
) -> dict[str, Any]:
    names = [name for name, metric in METRICS.items() if metric.of_matrix]
    if config.cycles > 1:
        names, matrix = ["average_accuracy"], _last_cycle(matrix)
    experiences = [
        {name: _finite(getattr(clpack.metrics, name)(matrix[:seen, :seen])) for name in names}
        for seen in range(1, len(matrix) + 1)
    ]
    of_further = {
        f"{kind}_{name}": _finite(getattr(clpack.metrics, name)(_last_cycle(accuracies.matrix)))
        for kind, accuracies in further.items()
        for name in names
        if f"{kind}_{name}" in METRICS
    }
    return {
        "config": config.settings(),
        "data": data,
        "metrics": experiences[-1] | metrics | of_further,
        **records,
        "experiences": experiences,
        "accuracy_matrix": _rows(matrix),
        **{f"{kind}_accuracy_matrix": _rows(_last_cycle(accuracies.matrix)) for kind, accuracies in further.items()},
        **{f"{kind}_accuracy_curve": it.curve for kind, it in further.items() if isinstance(it, _TrainingAccuracy)},
        "learning_curve": [_finite(value) for value in clpack.metrics.running_average_accuracy(matrix)],
    }


def _environment(config: RunConfig, phases: list[dict[str, Any]]) -> dict[str, Any]:
    cuda = config.device.startswith("cuda")
    return {
        "phases": phases,
        "seconds": sum(phase["seconds"] for phase in phases),
        "versions": {
            "clpack": clpack.__version__,
            "torch": torch.__version__,
            "avalanche": avalanche.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(config.device) if cuda else platform.processor() or platform.machine(),
        "num_threads": config.num_threads,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _last_cycle(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns the accuracies measured in the last cycle, shape ``(T, T)``: all of them if there is one cycle."""
    return matrix[:, -len(matrix) :]


def _rows(matrix: np.ndarray[Any, Any]) -> list[list[float | None]]:
    """Returns a matrix as JSON can hold it."""
    return [[_finite(value) for value in row] for row in matrix]


def _finite(value: Any) -> float | None:
    """Returns ``value`` as JSON can hold it: None for NaN."""
    return None if math.isnan(value) else float(value)
