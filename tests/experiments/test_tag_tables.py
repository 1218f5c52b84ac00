"""The tables of TAG's paper, and the settings of cells that they brought: dropped batches, cycles, held-out samples."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
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


#: The rest is transcribed from the authors' scripts and logs, for the four streams in this order.
STREAMS = {
    CIFAR: {"stream": "PlainSplitCIFAR100", "stream.n_experiences": 20, "train_mb_size": 10},
    MINI: {"stream": "SplitMiniImageNet", "stream.n_experiences": 20, "train_mb_size": 10, "drop_last": True},
    CUB: {"stream": "SplitCUB", "stream.n_experiences": 20, "train_mb_size": 10, "drop_last": True},
    FIVE: {
        "stream": "FiveDatasets",
        "stream.members": ["cifar10", "mnist", "svhn", "notmnist", "fashionmnist"],
        "train_mb_size": 64,
    },
}
EWC, AGEM, ER = {"ewc_lambda": (1, 1, 1, 100)}, {"examples_per_class": (1,) * 4}, {"mem_size": (100, 100, 200, 50)}
RMS, TAG = {"lr": (0.005, 0.001, 0.0001, 0.001)}, {"lr": (0.00025, 0.0001, 0.000025, 0.0005), "b": (5, 5, 5, 7)}
METHODS = {  # strategy, optimizer, and settings
    "SGD": ("Naive", "SGD", {"lr": (0.1, 0.05, 0.01, 0.1)}),
    "Adagrad": ("Naive", "Adagrad", {"lr": (0.01, 0.01, 0.0005, 0.005)}),
    "RMSProp": ("Naive", "RMSprop", RMS),
    "Adam": ("Naive", "Adam", {"lr": (0.005, 0.001, 0.0001, 0.001)}),
    "TAG-Adagrad": ("TAG", "TAG-Adagrad", {"lr": (0.005, 0.001, 0.0005, 0.005), "b": (5, 5, 5, 7)}),
    "TAG-RMSProp": ("TAG", "TAG-RMSprop", TAG),
    "TAG-Adam": ("TAG", "TAG-Adam", {"lr": (0.0005, 0.00025, 0.0001, 0.0005), "b": (5, 5, 5, 7)}),
    "EWC": ("RunningEWC", "SGD", {"lr": (0.1, 0.05, 0.01, 0.1), **EWC}),
    "RMSProp-EWC": ("RunningEWC", "RMSprop", {**RMS, **EWC}),
    "TAG-EWC": ("RunningEWC", "TAG-RMSprop", {**TAG, **EWC}),
    "A-GEM": ("RingAGEM", "SGD", {"lr": (0.1, 0.1, 0.01, 0.1), **AGEM}),
    "RMSProp-A-GEM": ("RingAGEM", "RMSprop", {**RMS, **AGEM}),
    "TAG-A-GEM": ("RingAGEM", "TAG-RMSprop", {**TAG, **AGEM}),
    "ER": ("ReservoirER", "SGD", {"lr": (0.1, 0.05, 0.01, 0.1), **ER}),
    "RMSProp-ER": ("ReservoirER", "RMSprop", {**RMS, **ER}),
    "TAG-ER": ("ReservoirER", "TAG-RMSprop", {**TAG, **ER}),
    "Stable SGD": (
        "StableSGD",
        "SGD",
        {"lr": (0.1, 0.1, 0.05, 0.1), "gamma": (0.9, 0.9, 0.9, 0.7), "model.dropout": (0.1, 0, 0, 0)},
    ),
    "Multi-task": ("Naive", "SGD", {"lr": (0.01, 0.01, 0.01, 0.05)}),
}
#: Where the logs of other tables differ: by table, row and setting.
CHANGES = {
    "five_epochs": {"SGD": {"lr": (0.1, 0.1, 0.01, 0.1)}, "Stable SGD": {"model.dropout": (0, 0, 0, 0)}},
    "ten_epochs": {
        "SGD": {"lr": (0.1, 0.1, 0.01, 0.1)},
        "RMSProp": {"lr": (0.005, 0.005, 0.0001, 0.001)},
        "EWC": {"ewc_lambda": (1, 1, 10, 1)},
        "A-GEM": {"lr": (0.1, 0.1, 0.01, 0.05)},
        "ER": {"lr": (0.1, 0.1, 0.01, 0.05)},
        "Stable SGD": {
            "lr": (0.1, 0.05, 0.01, 0.05),
            "gamma": (0.9, 0.9, 0.9, 0.8),
            "model.dropout": (0, 0, 0, 0.1),
        },
    },
    "memory": {
        **{f"A-GEM (M={n})": {"examples_per_class": (n,) * 4} for n in (2, 3, 5, 10)},
        "ER (M=2)": {"mem_size": (200, 200, 400, 100), "lr": (0.1, 0.1, 0.01, 0.1)},
        "ER (M=3)": {"mem_size": (300, 300, 600, 150), "lr": (0.1, 0.1, 0.01, 0.1)},
        "ER (M=5)": {"mem_size": (500, 500, 1000, 250)},
        "ER (M=10)": {"mem_size": (1000, 1000, 2000, 500)},
        "TAG-ER (M=10)": {"mem_size": (1000, 1000, 2000, 500)},
    },
}
RATES = {"lr": (0.1, 0.05, 0.01, 0.001)}
TAG_GRID = {"lr": (0.005, 0.001, 0.0005, 0.0001, 0.00005, 0.00001), "b": (1, 3, 5, 7)}
STABLE_GRID = {"lr": (0.1, 0.05, 0.01), "gamma": (0.9, 0.8, 0.7)}
GRIDS = {
    **dict.fromkeys(("SGD", "Adagrad", "RMSProp", "Adam", "A-GEM", "ER"), RATES),
    **dict.fromkeys(("TAG-Adagrad", "TAG-RMSProp", "TAG-Adam"), TAG_GRID),
    "EWC": {**RATES, "ewc_lambda": (1, 10, 100)},
    "Stable SGD": {**STABLE_GRID, "model.dropout": (0, 0.1, 0.25, 0.5)},
}


def expected_settings(column, method, changes, **others):
    """All settings of a cell of seed 1, from the tables above."""
    strategy, optimizer, published = METHODS[method]
    values = {key: each[list(STREAMS).index(column)] for key, each in {**published, **changes}.items()}
    dropout = values.pop("model.dropout", 0)
    model = {"model": "ReducedResNet18", "model.dropout": dropout} if column != CUB else {"model": "ImageNetResNet18"}
    return {
        **STREAMS[column],
        **model,
        "strategy": strategy,
        "strategy.optimizer": optimizer,
        **{f"strategy.{key}": value for key, value in values.items()},
        **({"cycles": 6} if method == "Multi-task" else {}),
        "stream.seed": 0,
        "model.head": "masked",
        "eval_mb_size": 256,
        "seed": 1,
        "device": "cpu",
        "num_threads": 1,
        **others,
    }


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("naive", 1), ("baselines", 1), ("hybrids", 1), ("memory", 1), ("five_epochs", 5), ("ten_epochs", 10)],
)
def test_published_settings(name, epochs):
    for config in tables.get(f"tag/{name}").cells(seeds=[1]):
        method, changes = config.row.split(" (")[0], CHANGES.get(name, {}).get(config.row, {})
        assert config.settings() == expected_settings(config.column, method, changes, train_epochs=epochs), config


def test_tiny_imagenet_has_the_settings_of_cifar():
    stream = {"stream": "SplitTinyImageNet100", "stream.image_size": 32}
    for config in tables.get("tag/tiny_imagenet").cells(seeds=[1]):
        assert config.settings() == expected_settings(CIFAR, config.row, {}, train_epochs=1, **stream), config


def test_the_grids_of_the_paper():
    configs = tables.get("tag/grid").cells(seeds=[1])
    for column in STREAMS:
        expected = []
        for method, grid in GRIDS.items():
            if (column, method) == (CUB, "Stable SGD"):  # the network has no dropout
                grid = STABLE_GRID
            for values in itertools.product(*grid.values()):
                point = {key: (value,) * 4 for key, value in zip(grid, values, strict=True)}
                expected.append(expected_settings(column, method, point, train_epochs=1, val_fraction=0.1))
        found = [config.settings() for config in configs if config.column == column]
        assert len(found) == len(expected)
        assert all(each in expected for each in found)


def test_settings_on_digits():
    options = {
        "SGD": ("Naive", {"lr": 0.2}),
        "RMSProp": ("Naive", {"lr": 0.001, "optimizer": "RMSprop"}),
        "Adagrad": ("Naive", {"lr": 0.05, "optimizer": "Adagrad"}),
        "Adam": ("Naive", {"lr": 0.001, "optimizer": "Adam"}),
        "TAG-RMSProp": ("TAG", {"lr": 0.001, "b": 5}),
        "TAG-Adagrad": ("TAG", {"lr": 0.01, "b": 5, "optimizer": "TAG-Adagrad"}),
        "TAG-Adam": ("TAG", {"lr": 0.002, "b": 5, "optimizer": "TAG-Adam"}),
    }
    configs = tables.get("tag/digits").cells()
    assert [(config.row, config.seed) for config in configs] == [(row, seed) for row in options for seed in (1, 2, 3)]
    for config in configs:
        assert (config.strategy.name, config.strategy.options) == options[config.row]
        assert config.stream == Component(
            "PermutedDigits",
            {"n_experiences": 8, "return_task_id": True, "class_ids_from_zero_in_each_exp": False, "seed": 0},
        )
        assert config.model == Component("MLP", {"hidden_sizes": [64, 64], "head": "masked"})
        assert (config.train_epochs, config.train_mb_size, config.drop_last) == (1, 10, False)


#: Of the published numbers by table, metric and stream: the means, each times the number of its row, added up, and the
#: same of the deviations.
SUMS = {
    "naive": {
        "average_accuracy": ((1579.34, 39.57), (1464.51, 34.20), (1524.58, 38.36), (1595.58, 70.09)),
        "forgetting": ((4.012, 0.416), (3.372, 0.385), (4.372, 0.322), (10.243, 0.883)),
        "learning_accuracy": ((1958.12, 26.86), (1778.36, 15.15), (1930.98, 21.76), (2414.58, 16.54)),
    },
    "baselines": {
        "average_accuracy": ((2132.83, 49.23), (1997.39, 45.26), (2171.37, 45.46), (2091.89, 100.14)),
        "forgetting": ((3.577, 0.519), (2.941, 0.436), (3.271, 0.309), (10.258, 0.855)),
        "learning_accuracy": ((1923.34, 30.46), (1739.67, 20.48), (1875.64, 21.52), (2348.69, 39.43)),
    },
    "hybrids": {
        "average_accuracy": ((4471.19, 109.13), (4030.70, 92.28), (4611.80, 86.12), (4731.21, 172.28)),
        "forgetting": ((10.560, 1.257), (10.073, 0.966), (9.569, 0.719), (23.233, 2.453)),
        "learning_accuracy": ((5456.67, 68.35), (4967.12, 48.06), (5439.51, 47.94), (6583.30, 92.09)),
    },
    "five_epochs": {
        "average_accuracy": ((1594.71, 33.84), (1453.30, 22.86), (1720.20, 36.63), (1612.15, 91.29)),
        "forgetting": ((6.058, 0.333), (5.527, 0.290), (5.182, 0.387), (11.366, 1.165)),
        "learning_accuracy": ((2169.76, 18.69), (1977.70, 12.74), (2209.35, 12.51), (2519.52, 19.49)),
    },
    "memory": {
        "average_accuracy": ((4127.05, 81.57), (3714.19, 73.22), (5069.17, 71.14), (3070.02, 73.96)),
        "forgetting": ((6.189, 0.899), (5.057, 0.793), (5.079, 0.684), (10.342, 1.047)),
        "learning_accuracy": ((4660.80, 67.26), (4141.96, 43.80), (5291.64, 55.20), (3891.37, 49.85)),
    },
    "ten_epochs": {
        "average_accuracy": ((1165.14, 34.71), (1028.82, 10.85), (1607.31, 32.66), (1253.14, 42.99)),
        "forgetting": ((4.732, 0.308), (4.589, 0.156), (6.468, 0.355), (8.144, 0.532)),
        "learning_accuracy": ((1614.28, 14.03), (1464.75, 9.51), (2220.12, 12.41), (1904.31, 10.44)),
    },
    "digits": {
        "average_accuracy": ((2092.4, 38.9),),
        "forgetting": ((3.792, 0),),
        "learning_accuracy": ((2420.4, 0),),
    },
}


@pytest.mark.parametrize("name", SUMS)
def test_published_results(name):
    table = tables.get(f"tag/{name}")
    number = {label: n for n, (label, _) in enumerate((point for row in table.rows for point in row.points()), 1)}
    assert {each.metric for each in table.references} == set(SUMS[name])
    for metric, sums in SUMS[name].items():
        for column, expected in zip((each.label for each in table.columns), sums, strict=True):
            found = [each for each in table.references if (each.metric, each.column) == (metric, column)]
            means, deviations = (
                sum(number[each.row] * getattr(each, part) for each in found if getattr(each, part) is not None)
                for part in ("mean", "std")
            )
            assert (means, deviations) == pytest.approx(expected, abs=1e-9)


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
