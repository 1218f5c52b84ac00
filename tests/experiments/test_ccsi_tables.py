"""The tables of CCSI: the released settings of each task, and an ablation whose rows run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clpack.experiments import tables
from clpack.experiments.build import check_strategy
from clpack.experiments.run import run_experiment

# The released configurations: impressions of each old class, and total variation, share, rho and temperature.
RELEASED = {
    "BloodMNIST": ([320, 240, 200], [0.01, 0.001, 0.01], [0.66] * 3, [0.9, 0.999, 0.9], [1, 1, 1]),
    "PathMNIST": ([213, 200, 200], [0.01, 0.01, 0.001], [0.66] * 3, [0.99, 0.9, 0.9], [1, 1, 1]),
    "OrganAMNIST": ([213, 160, 133], [0.1, 0.001, 0.1], [0.66, 0.66, 0.5], [0.9, 0.99, 0.9], [1, 5, 1]),
    "TissueMNIST": ([320, 240, 200], [0.01, 0.001, 0.001], [0.66] * 3, [0.99, 0.99, 0.9], [1, 5, 5]),
}
OLD_CLASSES = {"BloodMNIST": [2, 4, 6], "PathMNIST": [3, 5, 7], "OrganAMNIST": [3, 6, 9], "TissueMNIST": [2, 4, 6]}


@pytest.mark.parametrize("column", RELEASED)
def test_released_settings(column):
    cells = tables.get("ccsi/medmnist").cells(seeds=[1])
    of_row = {cell.row: cell.strategy.options for cell in cells if cell.column == column}
    per_class, tv_l2, shares, rho, temperature = RELEASED[column]
    for row in ("DeepInversion", "CI", "CCSI"):
        batches = of_row[row]["num_batches"]
        assert [40 * n // old for n, old in zip(batches, OLD_CLASSES[column], strict=True)] == per_class
        assert (of_row[row]["tv_l2"], of_row[row]["images_per_class"]) == (tv_l2, None)
    assert of_row["CCSI"]["rho"] == rho
    assert of_row["CCSI"].get("temperature", [1] * 3) == temperature
    assert of_row["CCSI"].get("synthetic_fraction", [0.66] * 3) == shares


def test_the_whole_method_is_the_same_in_both_tables():
    main, ablation = (tables.get(f"ccsi/{name}").cells(seeds=[1]) for name in ("medmnist", "ablation"))
    (shared,) = {cell.key() for cell in main} & {cell.key() for cell in ablation}
    assert [cell.label() for cell in main if cell.key() == shared] == ["CCSI on BloodMNIST, seed 1"]


def test_rows_of_the_ablation_run(tmp_path):
    table = tables.get("ccsi/ablation")
    rows = tuple(row for row in table.rows if row.label.startswith(("Linear", "Choices of the released code")))
    with pytest.warns(UserWarning, match="'test' looks at the test stream"):  # the released code does
        summary = run_experiment(replace(table, rows=rows), preset="smoke", out=tmp_path)
    assert [outcome.status for outcome in summary.outcomes] == ["done", "done"], summary


def test_a_range_is_refused_before_anything_runs(tmp_path):
    overrides = {"strategy.num_batches": [4, 0, 4, 4]}
    with pytest.raises(ValueError, match="each of num_batches must be at least 1, got 0"):
        run_experiment(tables.get("ccsi/ablation"), preset="short", out=tmp_path, overrides=overrides)
    assert not [*tmp_path.glob("cells/*")]


def test_a_number_may_take_the_place_of_one_for_each_experience():
    cells = tables.get("ccsi/medmnist").cells(overrides={"strategy.num_batches": 5})
    assert {cell.strategy.options.get("num_batches") for cell in cells} == {None, 5}
    for cell in cells:
        check_strategy(cell)
