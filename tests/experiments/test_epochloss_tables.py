"""The tables of EpochLoss's paper, and the accuracies that only their cells have."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from safetensors.torch import load_file

from clpack.benchmarks import SplitDigits
from clpack.experiments import cell, tables
from clpack.experiments.config import Column, Component, Experiment
from clpack.experiments.epochloss.three_steps import METHODS, PERCENTS, row
from clpack.experiments.report import load_tables, markdown
from clpack.experiments.run import run_experiment
from clpack.experiments.store import ResultStore
from clpack.strategies import subnetworks

GOLDEN = Path(__file__).parent.parent / "golden"

TABLE = Experiment(
    name="test/attacked",
    title="Attacked digits",
    paper="",
    rows=tuple(row(method, attacked=attacked) for method in ("No removal", "EpochLoss") for attacked in (False, True)),
    columns=(
        Column(
            "Digits",
            Component("SplitDigits", {"n_experiences": 2, "return_task_id": True, "seed": 0}),
            Component("MLP", {"hidden_sizes": [16], "head": "multi"}),
            {
                "train_epochs": 2,
                "train_mb_size": 32,
                "strategy.scoring_epochs": 1,
                "strategy.finetune_epochs": 1,
                "strategy.interval": 1,
                "strategy.remove_fraction": 0.4,
                "strategy.attack_steps": 2,
                "strategy.attack_eps": 0.1,
                "strategy.attack_step_size": 0.05,
            },
        ),
    ),
    seeds=(1,),
    metrics=("learning_accuracy", "attacked_learning_accuracy", "synthetic_learning_accuracy"),
)


@pytest.fixture(autouse=True)
def two_kinds_of_digits(monkeypatch):
    """Lets the digits have validation images, and inverted ones as synthetic test images."""

    def build_benchmark(config, scores=None):
        stream = SplitDigits(**config.stream.options)
        train, test = ([part.dataset for part in parts] for parts in (stream.train_stream, stream.test_stream))
        others = {"valid": test, "test_synthetic": [part.replace_current_transform_group(_inverted) for part in test]}
        benchmark = dataset_benchmark(train, test, other_streams_datasets=others)
        benchmark.data_description = "digits & inverted digits"
        return benchmark

    monkeypatch.setattr(cell, "build_benchmark", build_benchmark)


def _inverted(image):
    return 1 - image


def results(root):
    store = ResultStore(root)
    return {config.row: store.result(config.key())["result"] for config in TABLE.cells()}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("attacked")


def test_attacked_and_synthetic_accuracy(out):
    summary = run_experiment(TABLE, out=out)
    assert len(summary.with_status("done")) == 4, summary
    for label, result in results(out).items():
        matrices = {
            kind: np.array(result[f"{kind}accuracy_matrix"], dtype=float)
            for kind in ("", "attacked_", "synthetic_")
            if f"{kind}accuracy_matrix" in result
        }
        assert ("attacked_" in matrices) == ("attacked" in label)
        for kind, matrix in matrices.items():
            assert matrix.shape == (2, 2)
            assert result["metrics"][f"{kind}learning_accuracy"] == pytest.approx(matrix.diagonal().mean())
            assert result["metrics"][f"{kind}average_accuracy"] == pytest.approx(matrix[:, -1].mean())
            if kind:
                assert (matrix.diagonal() < matrices[""].diagonal()).all()  # they are harder
        assert result["data"]["description"] == "digits & inverted digits"
    text = markdown(load_tables(out))
    attacked = text.split("## Learning accuracy on attacked images")[1].split("##")[0]
    assert "| EpochLoss, attacked |" in attacked
    assert "| EpochLoss |" not in attacked  # it trains on clean images, and is not attacked
    assert "- Data: digits & inverted digits." in text


def test_an_interrupted_attacked_cell_resumes_to_the_same_bytes(out, tmp_path, monkeypatch):
    table = Experiment("test/one", "", "", (row("EpochLoss", attacked=True),), TABLE.columns, (1,))
    n_iterations = 0

    def stop(self, strategy, **kwargs):
        nonlocal n_iterations
        n_iterations += 1
        if n_iterations == 110:  # fine-tuning in the second experience
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cell._ProgressPlugin, "after_training_iteration", stop)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(table, out=tmp_path, checkpoint_every=4)
    run_experiment(table, out=tmp_path, checkpoint_every=4)
    (resumed,) = (ResultStore(tmp_path).result(config.key())["result"] for config in table.cells())
    assert json.dumps(resumed) == json.dumps(results(out)["EpochLoss, attacked"])


@pytest.fixture(scope="module")
def published():
    with np.load(GOLDEN / "epochloss" / "published_figures.npz") as arrays:
        return dict(arrays)


def means(published, figure, regime):
    """Means over the tasks, and the deviations that the error bars give."""
    values, errors = published[figure][regime], published[f"{figure}_err"][regime]
    return values.mean(-1), np.sqrt(np.nanmean(errors**2, -1) / values.shape[-1])


@pytest.mark.parametrize(("regime", "metric"), [(0, "learning_accuracy"), (1, "attacked_learning_accuracy")])
class TestReferences:
    def references(self, name, metric):
        found = tables.get(name).references
        return {(each.row.removesuffix(", attacked"), each.column): each for each in found if each.metric == metric}

    def test_figures_2_and_6(self, published, regime, metric):
        mean, std = means(published, "fig2", regime)
        found = self.references("epochloss/figure2", metric)
        assert len(found) == mean.size
        for i, percent in enumerate(PERCENTS):
            for j, method in enumerate(METHODS):
                reference = found[method, f"{percent} %"]
                assert (reference.mean, reference.std) == pytest.approx((mean[i, j], std[i, j]))
                assert np.transpose(reference.by_experience) == pytest.approx(
                    np.stack([published["fig2"][regime, i, j], published["fig2_err"][regime, i, j]])
                )
        mean, std = means(published, "fig6", regime)
        found = self.references("epochloss/figure6", metric)
        assert [each.mean for each in found.values()] == pytest.approx(mean.tolist())
        assert [each.std for each in found.values()] == pytest.approx(std.tolist())
        single = np.array([each.by_experience for each in found.values()], dtype=float)  # None is NaN
        np.testing.assert_allclose(single[..., 0], published["fig6"][regime])
        np.testing.assert_allclose(single[..., 1], published["fig6_err"][regime])

    def test_figure_5(self, published, regime, metric):
        values = published["fig5"][regime]
        found = self.references("epochloss/figure5", metric)
        assert len(found) == 7 * 10
        for (label, column), reference in found.items():
            method, _, percent = label.partition(", ")
            curve = values[PERCENTS.index(int(percent.split()[0])) if percent else 0, METHODS.index(method)]
            assert reference.mean == pytest.approx(curve[int(column.split()[0])], abs=0.051)


def test_figures_2_and_5_share_their_natural_cells():
    removal = {config.key() for config in tables.get("epochloss/figure2").cells()}
    substitution = tables.get("epochloss/figure5").cells()
    assert len(removal) == 3 * 2 * 10
    assert len({config.key() for config in substitution}) == 3 * 2 * 10 * 7
    assert removal == {config.key() for config in substitution if config.column == "0 synthetic"}


def test_a_setting_of_the_attack_reaches_only_the_cells_that_attack():
    cells = tables.get("epochloss/figure2").cells(overrides={"strategy.attack_eps": 0.1, "strategy.patience": 10})
    for config in cells:
        assert config.strategy.options.get("attack_eps") == (0.1 if "attacked" in config.row else None)
        assert config.strategy.options["patience"] == 10


def test_presets_on_cifake_leave_rows_out():
    cells = tables.get("epochloss/cifake_removal").cells(preset="short")
    assert {config.row for config in cells} == {"No removal", "Caper", "EpochLoss", "Random"}
    assert len({config.key() for config in cells}) == 2 * 10


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_the_smallest_run_on_cifake(tmp_path, monkeypatch):
    monkeypatch.undo()
    overrides = {"strategy.attack_eps": 0.0}  # leaves the images alone, at no cost
    table = tables.get("epochloss/cifake_substitution")
    summary = run_experiment(table, preset="smoke", out=tmp_path, overrides=overrides)
    assert {outcome.status for outcome in summary.outcomes} == {"done"}, summary
    text = markdown(load_tables(tmp_path))
    assert "CIFAR-10 (JPEG) as natural images, a part of CIFAKE-FAKE as synthetic ones" in text


def test_random_removal_has_no_condition_on_classes():
    for config in tables.get("epochloss/figure2").cells():
        assert config.strategy.options.get("min_per_class") == (0 if "Random" in config.row else None)


def test_the_smallest_runs_of_the_figures_need_no_data(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("CLPACK_DATA", raising=False)
    for figure in (2, 3, 5, 6):
        table = tables.get(f"epochloss/figure{figure}")
        summary = run_experiment(table, preset="smoke", out=tmp_path)
        assert not summary.with_status("failed"), summary
        store = ResultStore(tmp_path)
        for config in table.cells(preset="smoke"):
            assert store.result(config.key())["result"]["metrics"]["learning_accuracy"] > 0.1


@pytest.mark.parametrize("preset", ["paper", "short"])
def test_figures_start_from_the_weights_of_the_pretraining_table(preset):
    (pretraining,) = tables.get("epochloss/pretraining").cells(preset=preset)
    for figure in (2, 3, 5, 6):
        for config in tables.get(f"epochloss/figure{figure}").cells(preset=preset):
            assert [source.key() for source in config.sources] == [pretraining.key()]
    assert pretraining.stream.options.get("subset", False) == (preset == "short")
    overrides = {"stream.seed": 5, "strategy.patience": 10}
    cells = tables.get("epochloss/figure2").cells(preset=preset, overrides=overrides)
    assert cells[0].stream.options["seed"] == 5
    assert cells[0].sources[0].stream == pretraining.stream  # it is another stream
    assert cells[0].sources[0].strategy.options["patience"] == 10
    with pytest.raises(ValueError, match="unknown setting 'stream.subset'"):
        tables.get("epochloss/figure2").cells(preset="short", overrides={"stream.subset": False})


PRETRAINED = Experiment(
    "test/pretrained",
    "",
    "",
    (row("EpochLoss", attacked=False, pretrained=True),),
    TABLE.columns,
    (1,),
    presets={
        "small": {
            "source.stream": "SplitDigits",
            "source.model": "MLP",
            "source.model.hidden_sizes": [16],
            "source.train_epochs": 1,
        }
    },
    metrics=("learning_accuracy",),
)


def test_a_cell_starts_from_pretrained_weights(tmp_path, monkeypatch):
    loaded = []

    def load_weights(model, path):
        original(model, path)
        loaded.append((path, {name: value.clone() for name, value in model.state_dict().items()}))

    original = subnetworks.load_weights
    monkeypatch.setattr(subnetworks, "load_weights", load_weights)
    (config,) = PRETRAINED.cells(preset="small")
    summary = run_experiment(PRETRAINED, preset="small", out=tmp_path)
    assert [outcome.status for outcome in summary.outcomes] == ["done"] * 2, summary
    weights = tmp_path / "cells" / config.sources[0].key() / "pretrained" / "weights.safetensors"
    ((path, start),) = loaded
    assert path == str(weights)
    found = load_file(path)
    assert found.pop("linear.weight").shape == (10, 16)  # a head for all digits, which is left behind
    assert found.pop("linear.bias").shape == (10,)
    assert all(torch.equal(start[name], value) for name, value in found.items())

    weights.unlink()
    (tmp_path / "cells" / config.key() / "result.json").unlink()
    summary = run_experiment(PRETRAINED, preset="small", out=tmp_path)
    (failed,) = summary.with_status("failed")
    assert "weights.safetensors is missing" in failed.reason


def test_pretrained_cells_resume_in_a_folder_that_was_moved(tmp_path, monkeypatch):
    n_iterations = 0

    def stop(self, strategy, **kwargs):
        nonlocal n_iterations
        n_iterations += 1
        if n_iterations in (20, 60):  # in the pre-training, and in the scoring of the first task
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cell._ProgressPlugin, "after_training_iteration", stop)
        for number in range(2):
            with pytest.raises(KeyboardInterrupt):
                run_experiment(PRETRAINED, preset="small", out=tmp_path / str(number), checkpoint_every=4)
            (tmp_path / str(number)).rename(tmp_path / str(number + 1))
    run_experiment(PRETRAINED, preset="small", out=tmp_path / "2", checkpoint_every=4)
    run_experiment(PRETRAINED, preset="small", out=tmp_path / "whole")
    assert n_iterations == 60
    (config,) = PRETRAINED.cells(preset="small")
    resumed, whole = (ResultStore(tmp_path / name).result(config.key())["result"] for name in ("2", "whole"))
    assert json.dumps(resumed) == json.dumps(whole)
    assert not (tmp_path / "0").exists()


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_pretraining_on_real_images(tmp_path, monkeypatch):
    monkeypatch.undo()
    overrides = {"model": "MNISTNet", "train_epochs": 1}
    summary = run_experiment(tables.get("epochloss/pretraining"), preset="short", out=tmp_path, overrides=overrides)
    (outcome,) = summary.with_status("done")
    result = ResultStore(tmp_path).result(outcome.key)["result"]
    assert result["data"]["n_train"] == [16_000]
    assert result["data"]["description"] == "a part of Tiny-ImageNet, 80 training images of each class"
    assert (tmp_path / "cells" / outcome.key / "pretrained" / "weights.safetensors").is_file()
