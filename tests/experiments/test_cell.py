from __future__ import annotations

import csv
import importlib
import json
import random
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clpack.experiments import cell, run
from clpack.experiments.config import Column, Component, Experiment, Row
from clpack.experiments.run import run_experiment
from clpack.experiments.store import ResultStore

TABLE = Experiment(
    name="test/real",
    title="A real table",
    paper="",
    rows=(
        Row("SGD", Component("Naive", {"lr": 0.3})),
        Row("Replay", Component("Replay", {"lr": 0.3, "mem_size": 100})),
        Row("TAG", Component("TAG", {"lr": 0.001})),
    ),
    columns=(
        Column(
            "Digits",
            Component("SplitDigits", {"n_experiences": 5, "seed": 0}),
            Component("MLP", {"hidden_sizes": [16], "dropout": 0.1}),
            {"train_epochs": 2, "train_mb_size": 32},
        ),
    ),
    seeds=(1,),
)
N_TRAIN = [284, 292, 289, 293, 279]
N_ITERATIONS = 96  # 2 epochs of 9 + 10 + 10 + 10 + 9 minibatches of 32


def results(root):
    """The deterministic part of every result below a folder, as bytes."""
    store = ResultStore(root)
    keys = [path.name for path in (store.root / "cells").iterdir()]
    return {key: json.dumps(store.result(key)["result"]) for key in keys}


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """A folder with the results of the table, computed one after the other without a break."""
    root = tmp_path_factory.mktemp("serial")
    assert len(run_experiment(TABLE, out=root).with_status("done")) == 3
    return root


@pytest.fixture
def iterations(monkeypatch):
    """Counts training iterations; when ``stop_after`` of them are done, the run is broken off."""
    counter = {"done": 0, "stop_after": None}

    def after_training_iteration(self, strategy, **kwargs):
        counter["done"] += 1
        if counter["done"] == counter["stop_after"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(cell._ProgressPlugin, "after_training_iteration", after_training_iteration)
    return counter


def test_result(serial):
    store = ResultStore(serial)
    config = TABLE.cells()[0]
    content = store.result(config.key())
    result, environment = content["result"], content["environment"]
    matrix = np.array(result["accuracy_matrix"], dtype=float)
    assert result["config"] == config.settings()
    assert result["data"]["n_train"] == N_TRAIN
    assert sum(result["data"]["n_test"]) == 360
    assert matrix.shape == (5, 5)
    assert result["metrics"]["average_accuracy"] == pytest.approx(matrix[:, -1].mean())
    assert result["metrics"]["learning_accuracy"] == pytest.approx(np.diag(matrix).mean())
    assert result["learning_curve"] == pytest.approx([matrix[: j + 1, j].mean() for j in range(5)])
    assert result["metrics"] == result["experiences"][-1]
    assert result["experiences"][0]["forgetting"] == 0
    assert result["metrics"]["learning_accuracy"] > 0.6  # it learns each pair of digits ...
    assert result["metrics"]["forgetting"] > 0.4  # ... and, without replay, forgets it
    assert [phase["phase"] for phase in environment["phases"]] == ["train", "eval"] * 5
    assert environment["seconds"] == pytest.approx(sum(phase["seconds"] for phase in environment["phases"]))
    assert environment["versions"]["torch"] == torch.__version__
    folder = store.folder(config.key())
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "result.json", "console.txt", "log.txt", "metrics.csv", "tb")
    }
    assert list((folder / "tb").glob("events.out.tfevents.*"))


def test_replay_forgets_less(serial):
    sgd, replay, _ = (ResultStore(serial).result(config.key())["result"]["metrics"] for config in TABLE.cells())
    assert replay["forgetting"] < sgd["forgetting"] - 0.1


def test_task_weights_of_tag_are_recorded(serial):
    sgd, _, tag = (ResultStore(serial).result(config.key())["result"] for config in TABLE.cells())
    assert "task_weights" not in sgd
    weights = np.array(tag["task_weights"], dtype=float)
    earlier = np.tri(5, k=-1, dtype=bool)
    assert np.isnan(weights[~earlier]).all()
    assert (np.exp(-5) < weights[earlier]).all()
    assert (weights[earlier] < np.exp(5)).all()


def test_the_state_of_the_process_does_not_matter(serial, tmp_path):
    random.seed(5)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_experiment(TABLE, out=tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert results(tmp_path) == results(serial)


def test_seeds_differ(serial, tmp_path):
    run_experiment(TABLE, out=tmp_path, seeds=[2])
    matrices = [json.loads(text)["accuracy_matrix"] for text in results(tmp_path).values()]
    assert not any(json.loads(text)["accuracy_matrix"] in matrices for text in results(serial).values())


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.label)
@pytest.mark.parametrize("stop_after", [1, 7, 45, N_ITERATIONS])
def test_an_interrupted_cell_resumes_to_the_same_bytes(row, stop_after, serial, tmp_path, iterations):
    table = Experiment("test/one", "", "", (row,), TABLE.columns, (1,))
    config = table.cells()[0]
    iterations["stop_after"] = stop_after
    with pytest.raises(KeyboardInterrupt):
        run_experiment(table, out=tmp_path, checkpoint_every=4)
    assert ResultStore(tmp_path).result(config.key()) is None

    iterations.update(done=0, stop_after=None)
    run_experiment(table, out=tmp_path, checkpoint_every=3)
    assert N_ITERATIONS - stop_after <= iterations["done"] <= N_ITERATIONS - stop_after + 4  # no more is repeated
    assert results(tmp_path)[config.key()] == results(serial)[config.key()]
    assert logged(tmp_path, config) == logged(serial, config)


def logged(root, config):
    with (ResultStore(root).folder(config.key()) / "metrics.csv").open() as file:
        return [row for row in csv.reader(file) if not row[1].startswith(("Seconds", "Peak_Memory"))]


def test_two_processes_give_the_same_results_and_a_killed_one_resumes(serial, tmp_path, monkeypatch):
    (tmp_path / "killed_for_tests.py").write_text(
        textwrap.dedent("""
        import os, signal
        from clpack.experiments.run import attempt_cell as original

        def attempt_cell(config, **options):
            from clpack.experiments import cell

            def after_training_iteration(self, strategy, **kwargs):
                if config.row == "Replay" and strategy.clock.train_iterations == 50:
                    os.kill(os.getpid(), signal.SIGKILL)

            cell._ProgressPlugin.after_training_iteration = after_training_iteration
            return original(config, **options)
        """)
    )
    table = Experiment("test/two", "", "", TABLE.rows[:2], TABLE.columns, (1,))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        patch.setattr(run, "attempt_cell", importlib.import_module("killed_for_tests").attempt_cell)
        summary = run_experiment(table, out=out, jobs=2, checkpoint_every=5)
    sys.modules.pop("killed_for_tests")
    (failed,) = summary.with_status("failed")
    assert failed.label == "Replay on Digits, seed 1"
    assert failed.reason == "its process was killed by SIGKILL (often: out of memory)"
    assert ResultStore(out).error(failed.key) == failed.reason
    assert (ResultStore(out).folder(failed.key) / "checkpoint").is_dir()

    again = run_experiment(table, out=out)
    assert [outcome.key for outcome in again.with_status("done")] == [failed.key]
    expected = results(serial)
    assert results(out) == {config.key(): expected[config.key()] for config in table.cells()}


def test_progress_never_goes_back(tmp_path, monkeypatch):
    (config,) = TABLE.cells()[:1]
    told = []
    monkeypatch.setattr(ResultStore, "set_progress", lambda self, config, fraction: told.append(fraction))
    plugin = cell._ProgressPlugin(config, ResultStore(tmp_path), n_experiences=2)
    for experience, iterations in ((0, 4), (0, 8), (0, 1), (0, 9), (1, 2)):  # pruning sets the clock back once
        clock = SimpleNamespace(train_exp_counter=experience, train_exp_iterations=iterations)
        plugin._told_at = float("-inf")
        plugin.after_training_iteration(SimpleNamespace(clock=clock, dataloader=[None] * 5, train_epochs=2))
    assert told == [0.2, 0.4, 0.4, 0.45, 0.6]


def test_fingerprint():
    def fingerprint(**options):
        config = TABLE.cells()[0].with_settings({f"stream.{name}": value for name, value in options.items()})
        return cell.fingerprint(cell.build_benchmark(config))

    same = fingerprint()
    assert same == fingerprint()
    assert fingerprint(seed=1)["sha256"] != same["sha256"]
    assert fingerprint(n_experiences=2)["sha256"] != same["sha256"]
    assert fingerprint(seed=None) == fingerprint(seed=1)  # the seed of the cell


def test_a_missing_gpu_is_found_where_the_cell_is_computed(tmp_path):
    (config,) = TABLE.cells(overrides={"device": "cuda:999"})[:1]
    with pytest.raises(ValueError, match=r"device is 'cuda:999', but torch sees \d+ CUDA devices here; use --set dev"):
        cell.run_cell(config, ResultStore(tmp_path))
