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
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import TensorboardLogger, TextLogger
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import EvaluationPlugin

import clpack
import clpack.metrics
from clpack.randomness import derive_seed
from clpack.strategies import (
    AccuracyMatrix,
    CheckpointPlugin,
    InMemoryLoaderPlugin,
    LogFile,
    MetricsCSVLogger,
    PhaseCosts,
    RandomStreamsPlugin,
    maybe_load_checkpoint,
    save_checkpoint,
)

from .build import build_benchmark, build_model, build_strategy, check_device
from .config import METRICS, RunConfig
from .samples import sample_metrics, sample_records, save_into, source_scores
from .store import ResultStore

__all__ = ["fingerprint", "run_cell"]


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
        benchmark = build_benchmark(config)
        data = fingerprint(benchmark)
        scores = source_scores(config, store, data) if config.sources else None
        RNGManager.set_random_seeds(derive_seed(config.seed, "initialization") % 2**32)  # NumPy takes 32 bits
        model = build_model(config, benchmark)

        state = folder / "checkpoint" / "state.safetensors"
        matrix = AccuracyMatrix()
        costs = PhaseCosts()
        evaluator = EvaluationPlugin(
            accuracy_metrics(epoch=True, experience=True, stream=True),
            loss_metrics(epoch=True, experience=True),
            matrix,
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
            _ProgressPlugin(config, store, len(benchmark.train_stream)),
        ]
        strategy = build_strategy(
            config, model, plugins=plugins, evaluator=evaluator, device=torch.device(config.device), scores=scores
        )
        save_into(folder, strategy)

        strategy, start = maybe_load_checkpoint(strategy, state, unique_objects=benchmark)
        for experience in benchmark.train_stream[start:]:
            strategy.train(experience)
            strategy.eval(benchmark.test_stream)
            save_checkpoint(strategy, state, unique_objects=benchmark)
        records = sample_records(strategy, benchmark)
        store.finish(config, _result(config, matrix.matrix, data, records), _environment(config, costs.costs))


def fingerprint(benchmark: Any) -> dict[str, Any]:
    """Returns what identifies the data of a benchmark.

    Returns:
        The number of training and test samples per experience, and the SHA-256 of, for each experience, up to
        1000 evenly spaced targets and the first, middle and last image as evaluation sees them.
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
    return {"sha256": digest.hexdigest(), "n_train": counts["train"], "n_test": counts["test"]}


class _ProgressPlugin(SupervisedPlugin):
    """Tells the store, at most once a second, how far the run is."""

    def __init__(self, config: RunConfig, store: ResultStore, n_experiences: int) -> None:
        super().__init__()
        self._config = config
        self._store = store
        self._n_experiences = n_experiences
        self._told_at = -math.inf

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if now - self._told_at < 1:
            return
        self._told_at = now
        within = strategy.clock.train_exp_iterations / (len(strategy.dataloader) * strategy.train_epochs)
        self._store.set_progress(
            self._config, (strategy.clock.train_exp_counter + min(within, 1.0)) / self._n_experiences
        )

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
    config: RunConfig, matrix: np.ndarray[Any, Any], data: dict[str, Any], records: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    names = [name for name, metric in METRICS.items() if metric.of_matrix]
    experiences = [
        {name: _finite(getattr(clpack.metrics, name)(matrix[:seen, :seen])) for name in names}
        for seen in range(1, len(matrix) + 1)
    ]
    return {
        "config": config.settings(),
        "data": data,
        "metrics": experiences[-1] | sample_metrics(records),
        **records,
        "experiences": experiences,
        "accuracy_matrix": [[_finite(value) for value in row] for row in matrix],
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


def _finite(value: Any) -> float | None:
    """Returns ``value`` as JSON can hold it: None for NaN."""
    return None if math.isnan(value) else float(value)
