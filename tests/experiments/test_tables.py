"""The tables that come with the package."""

from __future__ import annotations

import pytest

from clpack.experiments import tables
from clpack.experiments.build import check_benchmark, check_model, check_strategy
from clpack.experiments.report import load_tables
from clpack.experiments.run import run_experiment

ON_DIGITS = ["epochloss/sweep", "mli/label_noise", "mli/two_tasks"]


@pytest.mark.parametrize("name", tables.names())
def test_all_cells_can_be_built(name):
    experiment = tables.get(name)
    assert "smoke" in experiment.presets
    for preset in ("paper", *experiment.presets):
        cells = experiment.cells(preset=preset, seeds=experiment.seeds[:1])
        every = {cell.key(): cell for cell in (*cells, *(source for cell in cells for source in cell.sources))}
        for cell in every.values():
            check_strategy(cell)
            check_benchmark(cell)
        for cell in {(cell.stream.name, str(cell.model)): cell for cell in every.values()}.values():
            check_model(cell)


@pytest.mark.parametrize("name", ON_DIGITS)
def test_the_smallest_run(name, tmp_path):
    summary = run_experiment(tables.get(name), preset="smoke", out=tmp_path)
    assert {outcome.status for outcome in summary.outcomes} == {"done"}, summary
    (table,) = load_tables(tmp_path)
    for entry in table.entries():
        assert entry.mean is not None or (entry.row, entry.metric) == ("No removal", "noise_found")


@pytest.mark.parametrize("name", ["mli/mnist", "mli/permuted_mnist"])
def test_removal_on_mnist(name):
    cells = tables.get(name).cells(seeds=[1])
    assert len({cell.key() for cell in cells if cell.row == "No removal"}) == 1
    assert len({source.key() for cell in cells for source in cell.sources}) == 5
    assert {source.model.options["dropout"] for cell in cells for source in cell.sources} == {False}
    removed = [cell.strategy.options["remove_count"] for cell in cells if cell.row == "MLI"]
    assert removed == [15_000, 30_000, 45_000, 48_000, 51_000, 54_000, 57_000, 59_000]
    references = {(value.row, value.column): value.mean for value in tables.get(name).references}
    assert references["MLI", "59,000"] == {"mli/mnist": 69.09, "mli/permuted_mnist": 16.18}[name]
