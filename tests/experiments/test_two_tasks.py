"""Cells whose stream takes the scores of their sources, and that measure the accuracy on training samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from clpack import metrics
from clpack.benchmarks import ScoreSplitDigits
from clpack.experiments import cell, tables
from clpack.experiments.build import check_benchmark, check_strategy
from clpack.experiments.report import report
from clpack.experiments.run import run_experiment
from clpack.experiments.store import ResultStore
from clpack.pruning import Trace

EXPERIMENT = tables.get("mli/two_tasks")
PRESET = {"source_seeds": (1, 2), "columns": ("Digits",), "train_epochs": 5, "stream.images_per_experience": 60}
TABLE = replace(EXPERIMENT, presets={"small": PRESET}, seeds=(3,))
RANDOM, EASY_FIRST, HARD_FIRST = TABLE.cells(preset="small")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with the finished table."""
    root = tmp_path_factory.mktemp("two_tasks")
    summary = run_experiment(TABLE, preset="small", out=root)
    assert len(summary.with_status("done")) == 5, summary
    return ResultStore(root)


def result(store, config):
    return store.result(config.key())["result"]


def test_sources_train_on_all_samples_whatever_is_set():
    for overrides in ({}, {"stream.images_per_experience": 50}):
        for config in TABLE.cells(preset="small", overrides=overrides)[1:]:
            assert config.stream.options["images_per_experience"] == overrides.get("stream.images_per_experience", 60)
            assert [source.stream.options for source in config.sources] == [{"n_experiences": 1}] * 2
            assert [source.key() for source in config.sources] == [source.key() for source in EASY_FIRST.sources]
    cifar = next(config for config in EXPERIMENT.cells() if config.column == "CIFAR-10" and config.sources)
    assert (cifar.train_epochs, cifar.sources[0].train_epochs) == (20, 200)
    assert cifar.sources[0].stream.options == {"n_experiences": 1, "augmentation": "crop_flip"}
    assert RANDOM.sources == ()


def test_the_tasks_are_those_of_the_scores(store):
    for config in (EASY_FIRST, HARD_FIRST):
        traces = [Trace.load(store.folder(source.key()) / "traces" / "experience_000.npz") for source in config.sources]
        benchmark = ScoreSplitDigits(
            seed=3,
            scores=sum(trace.score("forgetting") for trace in traces),
            score_ranges=config.stream.options["score_ranges"],
            images_per_experience=60,
        )
        assert result(store, config)["data"] == cell.fingerprint(benchmark)
    assert result(store, RANDOM)["data"] == cell.fingerprint(ScoreSplitDigits(seed=3, images_per_experience=60))


def test_accuracy_on_training_samples(store):
    for config in (RANDOM, EASY_FIRST, HARD_FIRST):
        content = result(store, config)
        matrix, curve = np.array(content["train_accuracy_matrix"]), np.array(content["train_accuracy_curve"])
        assert matrix.shape == (2, 2)
        assert curve.shape == (10, 2)  # 5 epochs of 2 experiences
        np.testing.assert_array_equal(curve[[4, 9]].T, matrix)
        assert content["metrics"]["train_forgetting"] == metrics.forgetting(matrix)
        assert content["metrics"]["train_learning_accuracy"] == metrics.learning_accuracy(matrix)
        np.testing.assert_array_equal(60 * matrix, (60 * matrix).round())  # of the 60 samples of each
    assert EASY_FIRST.measure_train
    assert not EASY_FIRST.sources[0].measure_train


def test_measuring_changes_nothing_else(store, tmp_path):
    config = replace(RANDOM, measure_train=False)
    cell.run_cell(config, ResultStore(tmp_path))
    without = result(ResultStore(tmp_path), config)
    assert "train_accuracy_matrix" not in without
    assert without["accuracy_matrix"] == result(store, RANDOM)["accuracy_matrix"]


@pytest.mark.parametrize("stop_after", [3, 33])
def test_an_interrupted_cell_resumes_to_the_same_bytes(store, tmp_path, monkeypatch, stop_after):
    for source in EASY_FIRST.sources:
        shutil.copytree(store.folder(source.key()), tmp_path / "cells" / source.key())
    count = 0

    def after_training_iteration(self, strategy, **kwargs):
        nonlocal count
        count += 1
        if count == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(cell._ProgressPlugin, "after_training_iteration", after_training_iteration)
    again = ResultStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cell.run_cell(EASY_FIRST, again, checkpoint_every=2)
    cell.run_cell(EASY_FIRST, again, checkpoint_every=5)
    assert json.dumps(result(again, EASY_FIRST)) == json.dumps(result(store, EASY_FIRST))


def test_report(store):
    page = report(store.root).html.read_text()
    assert "<h2>Accuracy on training samples</h2>" in page
    assert 'aria-label="Accuracy on training samples on Digits"' in page
    assert "<th>Scoring runs (s)</th>" in page


def test_what_cannot_be_is_found_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="scores and score_ranges go together, but scores is None"):
        check_benchmark(replace(EASY_FIRST, sources=()))
    with pytest.raises(ValueError, match="go together, but score_ranges is None"):
        check_benchmark(replace(RANDOM, sources=EASY_FIRST.sources))
    with pytest.raises(ValueError, match="unknown score 'forgeting': did you mean 'forgetting'"):
        check_benchmark(EASY_FIRST.with_settings({"stream.score": "forgeting"}))
    check_strategy(EASY_FIRST.with_settings({"strategy": "Pruning"}))  # it scores the samples of each task by itself
