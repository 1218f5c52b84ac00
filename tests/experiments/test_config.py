from __future__ import annotations

import dataclasses

import pytest

from clpack.experiments.config import Column, Component, Experiment, Reference, Row, RunConfig


def config(**changes):
    return RunConfig(
        **{
            "stream": Component("SplitDigits", {"n_experiences": 5}),
            "model": Component("MLP", {"hidden": [64, 64]}),
            "strategy": Component("Naive", {"optimizer": "sgd", "lr": 0.1}),
            **changes,
        }
    )


def table(**changes):
    return Experiment(
        **{
            "name": "test/table",
            "title": "A table",
            "paper": "Nobody (2024)",
            "rows": (
                Row("SGD", Component("Naive", {"lr": 0.1})),
                Row(
                    "TAG",
                    Component("TAG", {"lr": 0.001, "b": 5}),
                    settings={"train_epochs": 2},
                    settings_by_column={"B": {"strategy.lr": 0.002, "train_mb_size": 32}},
                ),
            ),
            "columns": (
                Column("A", Component("SplitDigits", {"n_experiences": 5}), Component("MLP")),
                Column("B", Component("PermutedDigits"), Component("MLP"), {"train_epochs": 3, "train_mb_size": 64}),
            ),
            "seeds": (1, 2),
            "presets": {"smoke": {"seeds": (7,), "train_epochs": 1, "stream.n_samples": 20}},
            **changes,
        }
    )


class TestKey:
    def test_is_stable(self):
        assert config().settings() == {
            "stream": "SplitDigits",
            "stream.n_experiences": 5,
            "model": "MLP",
            "model.hidden": [64, 64],
            "strategy": "Naive",
            "strategy.optimizer": "sgd",
            "strategy.lr": 0.1,
            "train_epochs": 1,
            "train_mb_size": 10,
            "eval_mb_size": 128,
            "seed": 1,
            "device": "cpu",
            "num_threads": 1,
        }
        assert config().key() == "baf5118190af21e6"

    def test_depends_on_neither_order_nor_labels_nor_kind_of_sequence(self):
        other = config(
            strategy=Component("Naive", {"lr": 0.1, "optimizer": "sgd"}),
            model=Component("MLP", {"hidden": (64, 64)}),
            table="t",
            row="r",
            column="c",
        )
        assert other.key() == config().key()

    @pytest.mark.parametrize(
        "changes",
        [
            {"seed": 2},
            {"num_threads": 2},
            {"device": "cuda"},
            {"train_epochs": 2},
            {"strategy": Component("Naive", {"optimizer": "sgd", "lr": 0.2})},
            {"stream": Component("PermutedDigits", {"n_experiences": 5})},
        ],
    )
    def test_depends_on_all_that_influences_the_result(self, changes):
        assert config(**changes).key() != config().key()

    def test_every_field_but_the_labels_is_a_setting(self):
        names = {field.name for field in dataclasses.fields(RunConfig)}
        assert names - config().settings().keys() == {"table", "row", "column"}


class TestBadInput:
    def test_counts(self):
        with pytest.raises(ValueError, match="train_epochs must be at least 1, got 0"):
            config(train_epochs=0)
        with pytest.raises(TypeError, match=r"train_mb_size must be an integer, got 1\.5"):
            config(train_mb_size=1.5)
        with pytest.raises(TypeError, match="seed must be an integer, got True"):
            config(seed=True)

    def test_options_that_json_cannot_hold(self):
        with pytest.raises(TypeError, match="options of 'Naive' must be plain JSON values"):
            Component("Naive", {"optimizer": object()})
        with pytest.raises(TypeError, match="options of 'Naive'"):
            Component("Naive", {"lr": float("nan")})

    def test_unknown_setting(self):
        with pytest.raises(ValueError, match="unknown setting 'train_epoch': did you mean 'train_epochs'"):
            config().with_settings({"train_epoch": 2})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"metrics": ("accuracy",)}, "test/table: unknown metric 'accuracy'"),
            ({"references": (Reference("SGD", "C", "forgetting", 0.1),)}, "unknown column 'C'"),
            ({"references": (Reference("sgd", "A", "forgetting", 0.1),)}, "unknown row 'sgd': did you mean 'SGD'"),
            ({"seeds": (1, 1)}, "seeds of test/table must be there and differ"),
            ({"rows": ()}, "rows of test/table must be there"),
        ],
    )
    def test_tables(self, changes, message):
        with pytest.raises(ValueError, match=message):
            table(**changes)


class TestCells:
    def test_rows_times_columns_times_seeds_in_order(self):
        cells = table().cells()
        assert [(cell.row, cell.column, cell.seed) for cell in cells] == [
            (row, column, seed) for row in ("SGD", "TAG") for column in ("A", "B") for seed in (1, 2)
        ]
        assert {cell.table for cell in cells} == {"test/table"}

    def test_precedence(self):
        cells = {(cell.row, cell.column): cell for cell in table().cells()}
        assert (cells["SGD", "B"].train_epochs, cells["SGD", "B"].train_mb_size) == (3, 64)  # the column's
        assert (cells["TAG", "A"].train_epochs, cells["TAG", "A"].train_mb_size) == (2, 10)  # the row's
        assert (cells["TAG", "B"].train_epochs, cells["TAG", "B"].train_mb_size) == (2, 32)  # row for column
        assert cells["TAG", "B"].strategy.options == {"lr": 0.002, "b": 5}
        assert cells["TAG", "A"].strategy.options == {"lr": 0.001, "b": 5}

    def test_preset_then_overrides_then_seeds(self):
        smoke = table().cells(preset="smoke")
        assert [cell.seed for cell in smoke] == [7] * 4
        assert {cell.train_epochs for cell in smoke} == {1}
        assert all(cell.stream.options["n_samples"] == 20 for cell in smoke)
        changed = table().cells(preset="smoke", seeds=[8, 9], overrides={"train_epochs": 4})
        assert {cell.train_epochs for cell in changed} == {4}
        assert {cell.seed for cell in changed} == {8, 9}

    def test_an_option_is_overridden_where_it_exists(self):
        cells = table().cells(overrides={"strategy.b": 7, "strategy.lr": 1})
        assert [cell.strategy.options for cell in cells[::2]] == [{"lr": 1}] * 2 + [{"lr": 1, "b": 7}] * 2

    def test_grid(self):
        row = Row("SGD", Component("Naive"), grid={"strategy.lr": [0.1, 0.2], "train_epochs": [1, 2]})
        cells = table(rows=(row,), columns=table().columns[:1], seeds=(1,)).cells()
        assert [(cell.row, cell.strategy.options["lr"], cell.train_epochs) for cell in cells] == [
            ("SGD (lr=0.1, train_epochs=1)", 0.1, 1),
            ("SGD (lr=0.1, train_epochs=2)", 0.1, 2),
            ("SGD (lr=0.2, train_epochs=1)", 0.2, 1),
            ("SGD (lr=0.2, train_epochs=2)", 0.2, 2),
        ]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"preset": "smok"}, ValueError, "unknown preset 'smok': did you mean 'smoke'.*paper, smoke"),
            ({"overrides": {"strategy.beta": 1}}, ValueError, "unknown setting 'strategy.beta'.*strategy.lr"),
            ({"overrides": {"seed": 1}}, ValueError, "unknown setting 'seed'"),
            ({"overrides": {"row": "x"}}, ValueError, "unknown setting 'row'"),
            ({"overrides": {"strategy.lr": "big"}}, TypeError, "strategy.lr must be a number such as 0.00., got 'big'"),
            ({"overrides": {"train_epochs": True}}, TypeError, "train_epochs must be a number"),
            ({"overrides": {"train_epochs": 0}}, ValueError, "train_epochs must be at least 1"),
            ({"seeds": [1, 1]}, ValueError, "different integers"),
            ({"seeds": []}, ValueError, "different integers"),
        ],
    )
    def test_bad_input(self, arguments, error, message):
        with pytest.raises(error, match=message):
            table().cells(**arguments)
