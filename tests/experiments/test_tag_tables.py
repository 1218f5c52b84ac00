"""The tables of TAG's paper, and the settings of cells that they brought: dropped batches, cycles, held-out samples."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from clpack.experiments import cell, tables
from clpack.experiments.config import Column, Component, Experiment, Row
from clpack.experiments.report import load_tables, markdown
from clpack.experiments.run import run_experiment
from clpack.experiments.store import ResultStore

CIFAR, MINI, FIVE = "Split-CIFAR100", "Split-miniImageNet", "5-dataset"


def settings(name, row, column):
    """The settings of the strategy in a cell, without ``strategy.``, and some others."""
    (config,) = (each for each in tables.get(name).cells(seeds=[1]) if (each.row, each.column) == (row, column))
    return config.settings()


@pytest.mark.parametrize(
    ("name", "row", "column", "expected"),
    [
        ("naive", "Adagrad", FIVE, {"strategy.optimizer": "Adagrad", "strategy.lr": 0.005, "train_mb_size": 64}),
        ("naive", "TAG-Adam", MINI, {"strategy.lr": 0.00025, "strategy.b": 5.0, "drop_last": True}),
        ("baselines", "EWC", FIVE, {"strategy": "RunningEWC", "strategy.lr": 0.1, "strategy.ewc_lambda": 100.0}),
        ("baselines", "A-GEM", MINI, {"strategy": "RingAGEM", "strategy.lr": 0.1, "strategy.examples_per_class": 1}),
        ("baselines", "ER", MINI, {"strategy": "ReservoirER", "strategy.lr": 0.05, "strategy.mem_size": 100}),
        ("baselines", "Stable SGD", CIFAR, {"strategy.lr": 0.1, "strategy.gamma": 0.9, "model.dropout": 0.1}),
        ("baselines", "Stable SGD", FIVE, {"strategy.gamma": 0.7, "model.dropout": 0.0}),
        ("baselines", "Multi-task", FIVE, {"strategy": "Naive", "strategy.lr": 0.05, "cycles": 6}),
        ("hybrids", "TAG-ER", FIVE, {"strategy.lr": 0.0005, "strategy.b": 7.0, "strategy.mem_size": 50}),
        ("hybrids", "RMSProp-EWC", MINI, {"strategy.optimizer": "RMSprop", "strategy.lr": 0.001}),
        ("five_epochs", "SGD", MINI, {"strategy.lr": 0.1, "train_epochs": 5}),
        ("five_epochs", "Stable SGD", CIFAR, {"model.dropout": 0.0}),
        ("memory", "ER (M=10)", FIVE, {"strategy.mem_size": 500, "strategy.lr": 0.1}),
        ("memory", "ER (M=2)", MINI, {"strategy.mem_size": 200, "strategy.lr": 0.1}),
        ("memory", "A-GEM (M=3)", CIFAR, {"strategy.examples_per_class": 3}),
        ("grid", "EWC (lr=0.05, ewc_lambda=10.0)", CIFAR, {"strategy.ewc_lambda": 10.0, "val_fraction": 0.1}),
    ],
)
def test_published_settings(name, row, column, expected):
    found = settings(f"tag/{name}", row, column)
    assert {key: found[key] for key in expected} == expected
    assert (found["eval_mb_size"], found["model.head"]) == (256, "masked")
    assert ("drop_last" in found) == (column == MINI)


@pytest.mark.parametrize(
    ("name", "row", "column", "metric", "mean", "std"),
    [
        ("naive", "TAG-RMSProp", CIFAR, "average_accuracy", 62.79, 0.29),
        ("naive", "Adam", FIVE, "learning_accuracy", 87.60, 0.67),
        ("baselines", "Multi-task", FIVE, "average_accuracy", 70.00, 4.44),
        ("hybrids", "TAG-A-GEM", MINI, "forgetting", 0.042, 0.006),
        ("hybrids", "RMSProp-ER", FIVE, "average_accuracy", 52.12, 2.17),
        ("five_epochs", "ER", MINI, "average_accuracy", 54.01, 0.56),
        ("memory", "ER (M=1)", CIFAR, "average_accuracy", 59.14, 1.77),
        ("memory", "A-GEM (M=10)", FIVE, "forgetting", 0.263, 0.029),
    ],
)
def test_published_results(name, row, column, metric, mean, std):
    found = {(each.row, each.column, each.metric): each for each in tables.get(f"tag/{name}").references}
    assert (found[row, column, metric].mean, found[row, column, metric].std) == (mean, std)


def test_every_row_has_its_published_result():
    for name in ("naive", "baselines", "hybrids", "five_epochs", "memory"):
        table = tables.get(f"tag/{name}")
        accuracies = {(each.row, each.column) for each in table.references if each.metric == "average_accuracy"}
        missing = {(config.row, config.column) for config in table.cells(seeds=[1])} - accuracies
        logged = {(f"{method} (M={n})", FIVE) for method in ("A-GEM", "ER") for n in (2, 3)}
        assert missing == (logged if name == "memory" else set())


def test_the_grids_of_the_paper():
    counts = {}
    for config in tables.get("tag/grid").cells(seeds=[1]):
        if config.column == CIFAR:
            method = config.row.split(" (")[0]
            counts[method] = counts.get(method, 0) + 1
    assert counts == {
        **dict.fromkeys(("SGD", "Adagrad", "RMSProp", "Adam", "A-GEM", "ER"), 4),
        **dict.fromkeys(("TAG-Adagrad", "TAG-RMSProp", "TAG-Adam"), 24),
        "EWC": 12,
        "Stable SGD": 36,
    }


def results(root):
    store = ResultStore(root)
    (table,) = load_tables(root)
    return {each.row: store.result(each.key)["result"] for each in table.cells}


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """The folder with the smallest run of the comparison with baselines."""
    out = tmp_path_factory.mktemp("baselines")
    summary = run_experiment(tables.get("tag/baselines"), preset="smoke", out=out)
    assert {outcome.status for outcome in summary.outcomes} == {"done"}, summary
    return out


def test_multi_task_has_an_accuracy_only(baselines):
    found = results(baselines)
    assert set(found["SGD"]["metrics"]) > {"average_accuracy", "forgetting", "learning_accuracy"}
    assert set(found["Multi-task"]["metrics"]) == {"average_accuracy"}
    matrix = np.array(found["Multi-task"]["accuracy_matrix"])
    assert matrix.shape == (2, 2)
    assert found["Multi-task"]["metrics"]["average_accuracy"] == pytest.approx(matrix[:, -1].mean())
    text = markdown(load_tables(baselines))
    accuracy, forgetting = text.split("\n## ")[1:3]
    assert "| Multi-task |" in accuracy
    assert "| Multi-task |" not in forgetting


def test_an_interrupted_cycle_goes_on(baselines, tmp_path, monkeypatch):
    table = tables.get("tag/baselines")
    table = replace(table, presets={"smoke": {**table.presets["smoke"], "rows": ("Multi-task",)}})
    n_iterations = 0

    def stop(self, strategy, **kwargs):
        nonlocal n_iterations
        n_iterations += 1
        if n_iterations == 200:  # in the second cycle
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cell._ProgressPlugin, "after_training_iteration", stop)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(table, preset="smoke", out=tmp_path, checkpoint_every=50)
    assert n_iterations == 200
    run_experiment(table, preset="smoke", out=tmp_path, checkpoint_every=50)
    assert json.dumps(results(tmp_path)["Multi-task"]) == json.dumps(results(baselines)["Multi-task"])


def test_selection_on_held_out_samples(tmp_path):
    summary = run_experiment(tables.get("tag/grid"), preset="smoke", out=tmp_path)
    assert {outcome.status for outcome in summary.outcomes} == {"done"}, summary
    for result in results(tmp_path).values():
        train, test = np.array(result["data"]["n_train"]), np.array(result["data"]["n_test"])
        assert test / (train + test) == pytest.approx(0.1, abs=0.01)
    assert "- Data: tested on 10 % of the training samples" in markdown(load_tables(tmp_path))


def test_batches_that_are_not_full(tmp_path, monkeypatch):
    sizes = {}

    def note(self, strategy, **kwargs):
        sizes.setdefault((self._config.drop_last, strategy.clock.train_exp_counter), []).append(len(strategy.mb_y))

    monkeypatch.setattr(cell._ProgressPlugin, "after_training_iteration", note)
    table = Experiment(
        name="test/batches",
        title="",
        paper="",
        rows=tuple(
            Row(label, Component("Naive", {"lr": 0.1}), settings={"drop_last": drop_last})
            for label, drop_last in (("all", False), ("full", True))
        ),
        columns=(Column("Digits", Component("SplitDigits", {"n_experiences": 2, "seed": 0}), Component("MLP")),),
        seeds=(1,),
        presets={"few": {"samples_per_class": 5, "train_mb_size": 10}},
    )
    run_experiment(table, preset="few", out=tmp_path)
    assert sizes == {(False, n): [10, 10, 5] for n in (0, 1)} | {(True, n): [10, 10] for n in (0, 1)}
    assert "at most 5 samples of each class" in markdown(load_tables(tmp_path))


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_some_of_the_five_data_sets(tmp_path):
    table = tables.get("tag/baselines")
    few = {"seeds": (1,), "rows": ("TAG-RMSProp",), "stream.members": ["notmnist", "mnist"], "samples_per_class": 5}
    run_experiment(replace(table, presets={"few": {**table.presets["short"], **few}}), preset="few", out=tmp_path)
    assert results(tmp_path)["TAG-RMSProp"]["data"]["n_train"] == [50] * 2
    assert "without CIFAR-10, SVHN, Fashion-MNIST, at most 5 samples" in markdown(load_tables(tmp_path))
