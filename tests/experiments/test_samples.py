"""Cells that record, score and remove samples, on real digits of which a fifth is labeled wrongly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils import as_classification_dataset

from clpack.data import TensorImages
from clpack.experiments import cell
from clpack.experiments.config import Column, Component, Experiment, Row, Sources
from clpack.experiments.run import run_experiment
from clpack.experiments.samples import _auroc, sample_metrics, save_galleries
from clpack.experiments.store import ResultStore
from clpack.pruning import Trace
from clpack.strategies import PruningPlugin

SGD = {"lr": 0.3, "lr_milestones": [3, 4], "lr_gamma": 0.1}
TABLE = Experiment(
    name="test/samples",
    title="",
    paper="",
    rows=(
        Row(
            "EpochLoss",
            Component("Pruning", {**SGD, "score": "epoch_loss", "remove_fraction": 0.2}),
            sources=Sources(Component("Trace", SGD), (1, 2)),
        ),
        Row("scored here", Component("Pruning+Replay", {**SGD, "scoring_epochs": 3, "mem_size": 50})),
        Row("SGD", Component("Naive", SGD)),
    ),
    columns=(
        Column(
            "Digits",
            Component("NoisyDigits", {"n_experiences": 2, "seed": 0, "label_noise": 20}),
            Component("MLP", {"hidden_sizes": [32]}),
            {"train_epochs": 5, "train_mb_size": 32},
        ),
    ),
    seeds=(3,),
)
PRUNED, SCORED_HERE, SGD_CELL = TABLE.cells()
N_TRAIN = [726, 711]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with the finished table."""
    root = tmp_path_factory.mktemp("samples")
    summary = run_experiment(TABLE, out=root)
    assert len(summary.with_status("done")) == 5, summary
    return ResultStore(root)


def arrays(folder):
    """The arrays of all files below a folder."""
    files = sorted(folder.rglob("*.npz"))
    return {(str(path.relative_to(folder)), name): array for path in files for name, array in np.load(path).items()}


def result(store, config):
    return store.result(config.key())["result"]


def test_scores_are_those_of_the_sources(store):
    for index in range(2):
        name = f"experience_{index:03d}.npz"
        traces = [Trace.load(store.folder(source.key()) / "traces" / name) for source in PRUNED.sources]
        assert [trace.loss.shape for trace in traces] == [(5, N_TRAIN[index])] * 2
        with np.load(store.folder(PRUNED.key()) / "pruning" / name) as saved:
            expected = np.mean([trace.loss.mean(0, dtype=np.float64) for trace in traces], axis=0)
            np.testing.assert_allclose(saved["scores"], expected, rtol=1e-12)
            assert len(saved["removed"]) == round(0.2 * N_TRAIN[index])
            assert saved["scores"][saved["removed"]].min() >= saved["scores"][saved["kept"]].max()


def test_record_of_a_pruned_cell(store):
    pruned = result(store, PRUNED)
    assert [sum(part["kept"].values()) + sum(part["removed"].values()) for part in pruned["pruning"]] == N_TRAIN
    assert all(len(part["kept"]) == 5 for part in pruned["pruning"])
    changed = [part["changed"] for part in pruned["pruning"]]
    assert [part["n"] for part in changed] == [145, 142]  # int(0.2 * N)
    removed = sum(part["removed"] for part in changed)
    assert pruned["metrics"]["noise_found"] == removed / 287
    assert changed[0]["recall"] == changed[0]["removed"] / 145
    assert changed[0]["precision"] == changed[0]["removed"] / 145  # as many are removed
    assert pruned["metrics"]["noise_found"] > 0.7  # a large loss finds wrong labels
    assert min(part["auroc"] for part in changed) > 0.9
    assert pruned["config"]["sources"] == [source.key() for source in PRUNED.sources]


def test_galleries_of_removed_samples(store):
    for config in (PRUNED, SCORED_HERE):
        pictures = sorted((store.folder(config.key()) / "pruning").glob("*.png"))
        assert [picture.name for picture in pictures] == ["experience_000.png", "experience_001.png"]
        assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert not list(store.folder(SGD_CELL.key()).rglob("*.png"))


@pytest.mark.parametrize(
    ("shape", "n_classes", "score", "drawn"),
    [
        ((3, 4, 4), 20, 1.0, True),
        ((3, 4, 4), 21, 1.0, False),
        ((2, 4, 4), 2, 1.0, False),
        ((16,), 2, 1.0, False),
        ((3, 4, 4), 2, np.nan, False),
    ],
)
def test_what_has_a_gallery(tmp_path, shape, n_classes, score, drawn):
    samples = TensorImages(torch.rand(2 * n_classes, *shape), list(range(n_classes)) * 2)
    benchmark = dataset_benchmark([as_classification_dataset(samples)], [as_classification_dataset(samples)])
    plugin = PruningPlugin("mli")
    plugin.scores[0] = np.full(len(samples), score)
    save_galleries(tmp_path, SimpleNamespace(plugins=[plugin]), benchmark)
    assert (tmp_path / "pruning" / "experience_000.png").exists() == drawn


def test_record_of_a_trace(store):
    source = PRUNED.sources[0]
    record = result(store, source)
    for index, part in enumerate(record["trace"]):
        correct = Trace.load(store.folder(source.key()) / "traces" / f"experience_{index:03d}.npz").correct
        events = (correct[:-1] & ~correct[1:]).sum(0)
        learned = correct.any(0)
        assert part["never_learned"] == pytest.approx(1 - learned.mean())
        assert part["unforgettable"] == pytest.approx((learned & (events == 0)).mean())
        assert part["events"] == pytest.approx(events[learned].mean())
    assert record["metrics"]["unforgettable"] == np.mean([part["unforgettable"] for part in record["trace"]])


def test_other_cells_have_no_such_records(store):
    content = result(store, SGD_CELL)
    assert {"pruning", "trace"} & content.keys() == set()
    assert content["metrics"] == content["experiences"][-1]
    assert not list(store.folder(SGD_CELL.key()).rglob("*.npz"))


@pytest.mark.parametrize("config", [PRUNED.sources[0], PRUNED, SCORED_HERE], ids=lambda config: config.row)
@pytest.mark.parametrize("stop_after", [40, 70, 150])
def test_an_interrupted_cell_resumes_to_the_same_bytes(config, stop_after, store, tmp_path, monkeypatch):
    for source in config.sources:
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
        cell.run_cell(config, again, checkpoint_every=7)
    cell.run_cell(config, again, checkpoint_every=11)
    assert json.dumps(result(again, config)) == json.dumps(result(store, config))
    found, expected = arrays(again.folder(config.key())), arrays(store.folder(config.key()))
    assert found.keys() == expected.keys() != set()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, str(name))


def test_sources_must_fit(store, tmp_path):
    other = replace(PRUNED, sources=tuple(source.with_settings({"stream.seed": 5}) for source in PRUNED.sources))
    with pytest.raises(ValueError, match=rf"source {other.sources[0].key()} .* is not finished; compute it first"):
        cell.run_cell(other, store)
    table = replace(
        TABLE, rows=(replace(TABLE.rows[0], sources=replace(TABLE.rows[0].sources, settings={"stream.seed": 5})),)
    )
    failed = run_experiment(table, out=tmp_path).with_status("failed")
    assert [outcome.key for outcome in failed] == [other.key()]
    assert "was trained on other data than this cell; give both streams the same seed" in failed[0].reason

    for source in other.sources:
        shutil.rmtree(tmp_path / "cells" / source.key() / "traces")
    fitting = replace(PRUNED, stream=other.sources[0].stream, sources=other.sources)
    with pytest.raises(FileNotFoundError, match=r"experience_000.npz is missing; remove .* to compute it again"):
        cell.run_cell(fitting, ResultStore(tmp_path))


def test_auroc():
    # Of the 3 x 2 pairs, 2.0 is above both and 1.0 ties with one and is above the other; infinity is above both.
    positive, negative = np.array([2.0, 1.0, np.inf, np.nan]), np.array([1.0, 0.0, np.nan])
    assert _auroc(positive, negative) == pytest.approx(5.5 / 6)
    assert _auroc(positive[:0], negative) is None


def test_metrics_without_values_are_left_out():
    nothing = {"changed": {"n": 0, "removed": 0}}
    assert sample_metrics({"pruning": [nothing], "trace": [{"unforgettable": 0.0, "events": None}]}) == {
        "unforgettable": 0.0
    }
