"""Cells that train on sets which other cells have condensed, on real digits."""

from __future__ import annotations

import shutil

import pytest
import torch

from clpack.condensation import NORMALIZATION, CondensedSet
from clpack.experiments import tables
from clpack.experiments.config import Column, Component, Experiment, Row, Sources
from clpack.experiments.report import load_tables
from clpack.experiments.run import run_experiment
from clpack.experiments.samples import strategy_options_of_sources
from clpack.experiments.store import ResultStore

from ..benchmarks.conftest import forge_svhn, forge_tiny_imagenet

CONDENSED = Sources(
    Component("CondensedReplay", {"network": "MLP", "iterations": 2, "matching_augmentation": "none"}),
    (1, 2),
    {"stream.n_experiences": 1, "train_epochs": 1},
)
TABLE = Experiment(
    name="test/condensed",
    title="",
    paper="",
    rows=(
        Row("LoDM", Component("CondensedReplay", {"augmentation": "none"}), sources=CONDENSED),
        Row("Random", Component("CondensedReplay", {"method": "random", "augmentation": "none"})),
        Row("Replay", Component("Replay", {"mem_size": 20})),
    ),
    columns=(
        Column(
            "Digits",
            Component("SplitDigits", {"n_experiences": 2, "seed": 0}),
            Component("MLP", {"hidden_sizes": [16]}),
            {"train_epochs": 2, "train_mb_size": 64, "strategy.lr": 0.1, "strategy.images_per_class": 2},
        ),
    ),
    seeds=(1, 2, 3),
    metrics=("average_accuracy", "memory_images", "memory_numbers", "memory_bytes"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with the finished table."""
    root = tmp_path_factory.mktemp("condensed")
    summary = run_experiment(TABLE, out=root)
    assert len(summary.with_status("done")) == 9 + 2, summary  # two sets for three cells
    return ResultStore(root)


def condensed_by(store, source):
    return CondensedSet.load(store.folder(source.key()) / "condensed" / "experience_000.safetensors")


def test_a_cell_trains_on_the_set_of_its_source(store):
    cells = TABLE.cells()[:3]
    for cell in cells:
        own = CondensedSet.load(store.folder(cell.key()) / "condensed" / "experience_001.safetensors")
        theirs = condensed_by(store, cell.sources[0])
        for label in range(10):
            images = [each.select_classes([label]).images() for each in (own, theirs)]
            assert torch.equal(*images)
    first, second, third = (condensed_by(store, cell.sources[0]).images() for cell in cells)
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


def test_memories_are_weighed(store):
    (table,) = load_tables(store.root)
    n_images = 2 * 64 // (2 * 16)  # of rank 2 in the memory of two plain ones
    expected = {
        "LoDM": (10 * n_images, 10 * n_images * 32, 10 * n_images * (32 * 4 + 8)),
        "Random": (20, 20 * 64, 20 * (64 + 8)),
        "Replay": (20, 20 * 64, 20 * (64 + 8)),
    }
    for row, values in expected.items():
        found = tuple(table.entry(row, "Digits", f"memory_{name}").mean for name in ("images", "numbers", "bytes"))
        assert found == values
        assert str(table.entry(row, "Digits", "memory_bytes")) == str(values[2])


def test_pictures_are_in_the_report(store):
    (table,) = load_tables(store.root)
    assert [len(cell.galleries) for cell in table.at("LoDM", "Digits")] == [2, 2, 2]


def test_a_source_must_fit(store, tmp_path):
    cell, *_ = TABLE.cells()
    source = cell.sources[0]
    data = store.result(source.key())["result"]["data"]
    assert strategy_options_of_sources(cell, store, data)["condensed"].targets.shape == (40,)
    with pytest.raises(ValueError, match=r"condensed other data .* than this cell has: .*1437.*, not .*1436"):
        strategy_options_of_sources(cell, store, {**data, "n_train": [1436]})
    copy = ResultStore(tmp_path / "copy")
    with pytest.raises(ValueError, match="is not finished; compute it first"):
        strategy_options_of_sources(cell, copy, data)
    shutil.copytree(store.root, tmp_path / "copy", dirs_exist_ok=True)
    shutil.rmtree(copy.folder(source.key()) / "condensed")
    with pytest.raises(
        FileNotFoundError, match=r"experience_000.safetensors is missing; remove .* to compute it again"
    ):
        strategy_options_of_sources(cell, copy, data)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_published_settings_reach_the_cells(dataset):
    cells = tables.get(f"condensation/{dataset}").cells(seeds=[1])
    found = {(cell.row, cell.column): cell for cell in cells}
    (source,) = found["LoDM", "50 per class"].sources
    expected = {"mnist": {"rank": 8, "matching_augmentation": "none"}, "cifar10": {"rank": 4, "lr_img": 1000.0}}
    assert expected[dataset].items() <= source.strategy.options.items()
    options = found["LoDM", "50 per class"].strategy.options
    trained_with = {"mnist": "crop_scale_rotate", "cifar10": "color_crop_cutout_flip_scale_rotate"}
    assert options["augmentation"] == trained_with[dataset]
    assert found["DC", "10 per class"].train_epochs == {"mnist": 1001, "cifar10": 301}[dataset]


def test_trajectory_matching_in_tables():
    table = tables.get("condensation/cifar100")
    found = {(cell.row, cell.column): cell for cell in table.cells(seeds=[3])}
    expected = {"syn_steps": 20, "expert_epochs": 3, "max_start_epoch": 20, "lr_lr": 1e-5, "rank": 0, "mean": None}
    for row, whitened in (("MTT", True), ("LoMTT", False), ("DM", False)):
        cell = found[row, "1 per class"]
        for each in (cell, *cell.sources):
            assert (each.stream.name, each.stream.options.get("whiten", False)) == (
                "PlainSplitCIFAR100" if whitened else "SplitCIFAR100",
                whitened,
            )
        assert (expected.items() <= cell.sources[0].strategy.options.items()) == whitened
    assert found["MTT", "10 per class"].stream.name == "SplitCIFAR100"
    references = {(each.row, each.column): (each.mean, each.std) for each in table.references}
    assert references["MTT", "50 per class"] == (47.7, 0.2)


@pytest.mark.parametrize(("name", "forge"), [("svhn", forge_svhn), ("tiny_imagenet", forge_tiny_imagenet)])
def test_the_smallest_run_on_forged_files(tmp_path, monkeypatch, name, forge):
    forge(monkeypatch, tmp_path)
    monkeypatch.setenv("CLPACK_DATA", str(tmp_path))
    summary = run_experiment(tables.get(f"condensation/{name}"), preset="smoke", out=tmp_path / "results")
    assert {outcome.status for outcome in summary.outcomes} == {"done"}, summary
    (table,) = load_tables(tmp_path / "results")
    for entry in table.entries():
        assert entry.mean is not None
    assert not list((tmp_path / "results").rglob("expert*"))
    cells = {cell.row: cell for cell in tables.get(f"condensation/{name}").cells(preset="smoke")}
    made = condensed_by(ResultStore(tmp_path / "results"), cells["LoDM"].sources[0])
    assert (made.mean, made.std) == NORMALIZATION[name]


def test_published_repeats():
    cells = tables.get("condensation/tiny_imagenet").cells()
    sets = [cell.sources[0].key() for cell in cells if (cell.row, cell.column) == ("LoDM", "1 per class")]
    assert sorted(map(sets.count, set(sets))) == [20] * 5  # networks on each of five sets


def test_overrides_leave_the_condensation_whole():
    table = tables.get("condensation/mnist")
    cell = table.cells(seeds=[1], overrides={"stream.n_experiences": 5, "train_epochs": 3})[-1]
    (source,) = cell.sources
    assert (cell.stream.options["n_experiences"], cell.train_epochs) == (5, 3)
    assert (source.stream.options["n_experiences"], source.train_epochs) == (1, 1)
