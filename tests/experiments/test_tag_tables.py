"""The tables of TAG's paper, and the settings of cells that they brought: dropped batches, cycles, held-out samples."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from clpack.benchmarks import cub, files
from clpack.experiments import cell, tables
from clpack.experiments.config import Column, Component, Experiment, Row
from clpack.experiments.report import load_tables, markdown
from clpack.experiments.run import run_experiment
from clpack.experiments.store import ResultStore

CIFAR, MINI, CUB, FIVE = "Split-CIFAR100", "Split-miniImageNet", "Split-CUB", "5-dataset"


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
        ("baselines", "Stable SGD", CUB, {"strategy.lr": 0.05, "model": "ImageNetResNet18", "stream": "SplitCUB"}),
        ("hybrids", "TAG-ER", CUB, {"strategy.lr": 0.000025, "strategy.b": 5.0, "strategy.mem_size": 200}),
        ("five_epochs", "SGD", MINI, {"strategy.lr": 0.1, "train_epochs": 5}),
        ("five_epochs", "Stable SGD", CIFAR, {"model.dropout": 0.0}),
        ("ten_epochs", "EWC", CUB, {"strategy.lr": 0.01, "strategy.ewc_lambda": 10.0, "train_epochs": 10}),
        ("ten_epochs", "EWC", FIVE, {"strategy.ewc_lambda": 1.0}),
        ("ten_epochs", "RMSProp", MINI, {"strategy.lr": 0.005}),
        ("ten_epochs", "ER", FIVE, {"strategy.lr": 0.05, "strategy.mem_size": 50}),
        ("ten_epochs", "Stable SGD", FIVE, {"strategy.lr": 0.05, "strategy.gamma": 0.8, "model.dropout": 0.1}),
        ("memory", "ER (M=10)", FIVE, {"strategy.mem_size": 500, "strategy.lr": 0.1}),
        ("memory", "ER (M=2)", MINI, {"strategy.mem_size": 200, "strategy.lr": 0.1}),
        ("memory", "A-GEM (M=3)", CIFAR, {"strategy.examples_per_class": 3}),
        ("memory", "TAG-ER (M=10)", CUB, {"strategy.mem_size": 2000, "strategy.optimizer": "TAG-RMSprop"}),
        ("grid", "EWC (lr=0.05, ewc_lambda=10.0)", CIFAR, {"strategy.ewc_lambda": 10.0, "val_fraction": 0.1}),
    ],
)
def test_published_settings(name, row, column, expected):
    found = settings(f"tag/{name}", row, column)
    assert {key: found[key] for key in expected} == expected
    assert (found["eval_mb_size"], found["model.head"]) == (256, "masked")
    assert ("drop_last" in found) == (column in (MINI, CUB))
    assert column != CUB or "model.dropout" not in found


@pytest.mark.parametrize(
    ("name", "row", "column", "metric", "mean", "std"),
    [
        ("naive", "TAG-RMSProp", CIFAR, "average_accuracy", 62.79, 0.29),
        ("naive", "Adam", FIVE, "learning_accuracy", 87.60, 0.67),
        ("baselines", "Multi-task", FIVE, "average_accuracy", 70.00, 4.44),
        ("hybrids", "TAG-A-GEM", MINI, "forgetting", 0.042, 0.006),
        ("hybrids", "RMSProp-ER", FIVE, "average_accuracy", 52.12, 2.17),
        ("baselines", "Multi-task", CUB, "average_accuracy", 71.65, 0.76),
        ("naive", "TAG-RMSProp", CUB, "learning_accuracy", 71.56, 0.74),
        ("five_epochs", "ER", MINI, "average_accuracy", 54.01, 0.56),
        ("ten_epochs", "TAG-RMSProp", CUB, "forgetting", 0.216, 0.015),
        ("ten_epochs", "Stable SGD", FIVE, "learning_accuracy", 92.64, 0.29),
        ("memory", "ER (M=1)", CIFAR, "average_accuracy", 59.14, 1.77),
        ("memory", "A-GEM (M=10)", FIVE, "forgetting", 0.263, 0.029),
        ("memory", "TAG-ER (M=10)", CUB, "average_accuracy", 72.16, 0.43),
    ],
)
def test_published_results(name, row, column, metric, mean, std):
    found = {(each.row, each.column, each.metric): each for each in tables.get(f"tag/{name}").references}
    assert (found[row, column, metric].mean, found[row, column, metric].std) == (mean, std)


def test_every_row_has_its_published_result():
    without = {
        "ten_epochs": {("TAG-RMSProp", column) for column in (CIFAR, MINI, FIVE)},
        "memory": {(f"{method} (M={n})", FIVE) for method in ("A-GEM", "ER") for n in (2, 3)},
    }
    for name in ("naive", "baselines", "hybrids", "five_epochs", "ten_epochs", "memory"):
        table = tables.get(f"tag/{name}")
        accuracies = {(each.row, each.column) for each in table.references if each.metric == "average_accuracy"}
        missing = {(config.row, config.column) for config in table.cells(seeds=[1])} - accuracies
        assert missing == without.get(name, set())


def test_the_grids_of_the_paper():
    configs = tables.get("tag/grid").cells(seeds=[1])
    for column, stable in ((CIFAR, 36), (MINI, 36), (CUB, 9), (FIVE, 36)):
        assert Counter(config.row.split(" (")[0] for config in configs if config.column == column) == {
            **dict.fromkeys(("SGD", "Adagrad", "RMSProp", "Adam", "A-GEM", "ER"), 4),
            **dict.fromkeys(("TAG-Adagrad", "TAG-RMSProp", "TAG-Adam"), 24),
            "EWC": 12,
            "Stable SGD": stable,
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


@pytest.fixture
def small_cub(tmp_path, monkeypatch):
    """A dataset root with four kinds of birds, each with two images for training and one for testing."""
    folder = tmp_path / "CUB_200_2011"
    rows = [(label, number) for label in range(4) for number in range(3)]
    for label, number in rows:
        path = folder / f"images/{label}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (60 * label, 50 * number, 100)).save(path)
    for name, values in (
        ("images", [f"{label}/{number}.png" for label, number in rows]),
        ("image_class_labels", [label + 1 for label, _ in rows]),
        ("train_test_split", [int(number > 0) for _, number in rows]),
    ):
        (folder / f"{name}.txt").write_text("".join(f"{row} {value}\n" for row, value in enumerate(values, start=1)))
    forged = files.DataSet("CUB200", "", (files.DataFile("CUB_200_2011/images.txt", None, None),))
    monkeypatch.setitem(files._DATA_SETS, "CUB200", forged)
    monkeypatch.setattr(cub, "_N_CLASSES", 4)
    monkeypatch.setenv("CLPACK_DATA", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def test_split_cub_starts_from_weights_trained_on_imagenet(small_cub, monkeypatch):
    table = tables.get("tag/baselines")
    few = {"columns": (CUB,), "rows": ("TAG-RMSProp",), "seeds": (1,), "stream.n_experiences": 2, "train_mb_size": 3}
    table = replace(table, presets={"few": few})
    with pytest.raises(
        FileNotFoundError, match="weights of ResNet-18 trained on ImageNet are not in .*/weights/resnet"
    ):
        run_experiment(table, preset="few", out=small_cub / "out")
    assert not (small_cub / "out" / "cells").exists()

    weights = small_cub / "weights" / "new"
    weights.parent.mkdir()
    torch.save(resnet18().state_dict(), weights)
    name = f"resnet18-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}.pth"
    weights.rename(weights.with_name(name))
    monkeypatch.setattr("clpack.models.imagenet_resnet._FILE", name)
    summary = run_experiment(table, preset="few", out=small_cub / "out")
    assert [outcome.status for outcome in summary.outcomes] == ["done"], summary
    result = results(small_cub / "out")["TAG-RMSProp"]
    assert result["data"]["n_train"] == [4, 4]
    assert "preprocessing 'authors'" in markdown(load_tables(small_cub / "out"))


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
