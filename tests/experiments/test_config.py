from __future__ import annotations

import dataclasses

import pytest

from clpack.experiments.config import Column, Component, Experiment, Reference, Row, RunConfig, Sources


def config(**changes):
    return RunConfig(
        **{
            "stream": Component("SplitDigits", {"n_experiences": 5}),
            "model": Component("MLP", {"hidden": [64, 64]}),
            "strategy": Component("Naive", {"optimizer": "sgd", "lr": 0.1}),
            **changes,
        }
    )


def source(**changes):
    return config(strategy=Component("Trace", {"lr": 0.1}), **changes)


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


LEFT_OUT_BY_DEFAULT = {
    "measure_train": True,
    "drop_last": True,
    "cycles": 2,
    "val_fraction": 0.1,
    "samples_per_class": 9,
}


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
        settings = config(sources=(source(),), **LEFT_OUT_BY_DEFAULT).settings()
        assert names - settings.keys() == {"table", "row", "column"}
        assert settings["sources"] == [source().key()]

    @pytest.mark.parametrize("name", LEFT_OUT_BY_DEFAULT)
    def test_what_is_left_out_by_default(self, name):
        assert name not in config().settings()
        changed = config().with_settings({name: LEFT_OUT_BY_DEFAULT[name]})
        assert changed == config(**{name: LEFT_OUT_BY_DEFAULT[name]})
        assert changed.key() != config().key()

    def test_measuring_on_training_samples_counts_only_where_it_is_done(self):
        assert "measure_train" not in config().settings()
        assert config(measure_train=True).key() != config().key()
        assert not any(cell.measure_train for cell in table().cells())
        assert all(cell.measure_train for cell in table(metrics=("forgetting", "train_forgetting")).cells())

    def test_sources_count_only_where_there_are_any(self):
        assert config(sources=()).settings() == config().settings()
        one, two = config(sources=(source(),)), config(sources=(source(seed=2),))
        assert len({config().key(), one.key(), two.key()}) == 3


class TestBadInput:
    def test_counts(self):
        with pytest.raises(ValueError, match="train_epochs must be at least 1, got 0"):
            config(train_epochs=0)
        with pytest.raises(TypeError, match=r"train_mb_size must be an integer, got 1\.5"):
            config(train_mb_size=1.5)
        with pytest.raises(TypeError, match="seed must be an integer, got True"):
            config(seed=True)
        with pytest.raises(ValueError, match="cycles must be at least 1, got 0"):
            config(cycles=0)
        with pytest.raises(ValueError, match="samples_per_class must be at least 1, got 0"):
            config(samples_per_class=0)
        with pytest.raises(TypeError, match="drop_last must be true or false, got 1"):
            config(drop_last=1)
        with pytest.raises(ValueError, match="val_fraction must be at least 0 and less than 1, got 1"):
            config(val_fraction=1)

    def test_sources(self):
        with pytest.raises(ValueError, match="Trace, CondensedReplay, Pretraining and no sources itself, got 'Naive'"):
            config(sources=(config(),))
        with pytest.raises(ValueError, match="got 'Trace' with 1 sources"):
            config(sources=(source(sources=(source(),)),))

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
            ({"presets": {"short": {"columns": ("a",)}}}, "unknown column 'a': did you mean 'A'"),
            ({"rows": (Row("SGD", Component("Naive"), columns=("a",)),)}, "unknown column 'a': did you mean 'A'"),
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

    def test_a_row_may_be_for_some_columns_only(self):
        sgd, tag = table().rows
        cells = table(rows=(sgd, dataclasses.replace(tag, columns=("B",))), seeds=(1,)).cells()
        assert [(cell.row, cell.column) for cell in cells] == [("SGD", "A"), ("SGD", "B"), ("TAG", "B")]

    def test_rows_and_columns_may_be_chosen(self):
        cells = table(presets={"short": {"columns": ("B",)}}).cells(preset="short", rows=["TAG"], columns=["A"])
        assert [(cell.row, cell.column) for cell in cells] == [("TAG", "A")] * 2
        sgd, tag = table().rows
        only_b = table(rows=(sgd, dataclasses.replace(tag, columns=("B",))))
        with pytest.raises(ValueError, match=r"no cells in the rows \['TAG'\] and columns \['A'\]"):
            only_b.cells(rows=["TAG"], columns=["A"])

    def test_a_preset_may_leave_columns_out(self):
        cells = table(presets={"short": {"columns": ("B",)}}).cells(preset="short")
        assert [(cell.row, cell.column) for cell in cells[::2]] == [("SGD", "B"), ("TAG", "B")]

    def test_options_of_other_strategies_are_left_out(self):
        columns = tuple(
            dataclasses.replace(table().columns[0], label=str(count), settings={"strategy.remove_count": count})
            for count in (1, 2)
        )
        rows = (Row("none", Component("Naive")), Row("random", Component("Pruning+Replay", {"score": "random"})))
        presets = {"short": {"strategy.lr": 0.5, "strategy.scoring_epochs": 3}}
        none, same, one, two = table(rows=rows, columns=columns, seeds=(1,), presets=presets).cells(preset="short")
        assert none.strategy.options == {"lr": 0.5}
        assert none.key() == same.key()
        assert one.strategy.options == {"score": "random", "remove_count": 1, "lr": 0.5, "scoring_epochs": 3}
        assert two.strategy.options["remove_count"] == 2

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
            ({"rows": ["sgd"]}, ValueError, "unknown row 'sgd': did you mean 'SGD'"),
            ({"columns": ["A", "C"]}, ValueError, "unknown column 'C'.*A, B"),
            ({"seeds": [1, 1]}, ValueError, "different integers"),
            ({"seeds": []}, ValueError, "different integers"),
        ],
    )
    def test_bad_input(self, arguments, error, message):
        with pytest.raises(error, match=message):
            table().cells(**arguments)


class TestSources:
    TABLE = table(
        rows=(
            Row(
                "MLI",
                Component("Pruning", {"score": "mli", "lr": 0.1}),
                settings={"train_epochs": 5},
                sources=Sources(Component("Trace", {"lr": 0.2}), (1, 2), {"model.dropout": 0.0}),
            ),
            Row("Forgetting", Component("Pruning"), sources=Sources(Component("Trace", {"lr": 0.2}), (1, 2))),
        ),
        presets={"short": {"seeds": (7,), "source_seeds": (8,), "train_epochs": 1, "strategy.scoring_epochs": 2}},
    )

    def test_they_have_the_settings_of_the_column_and_their_own(self):
        cell = next(cell for cell in self.TABLE.cells() if (cell.row, cell.column) == ("MLI", "B"))
        assert cell.train_epochs == 5
        for seed, source in zip((1, 2), cell.sources, strict=True):
            assert source.label() == f"Scoring run on PermutedDigits, seed {seed}"
            assert (source.train_epochs, source.train_mb_size) == (3, 64)
            assert (source.strategy, source.model.options) == (Component("Trace", {"lr": 0.2}), {"dropout": 0.0})

    def test_cells_share_them(self):
        cells = self.TABLE.cells()
        keys = {(cell.row, cell.column): [source.key() for source in cell.sources] for cell in cells}
        assert len({tuple(sources) for sources in keys.values()}) == 4  # two rows that differ in dropout, two columns
        assert [source.key() for source in cells[0].sources] == [source.key() for source in cells[1].sources]

    def test_a_cell_takes_one_condensed_set(self):
        sources = Sources(Component("CondensedReplay", {"rank": 2}), (5, 6))
        presets = {"short": {"train_epochs": 7, "source.train_epochs": 1, "source.strategy.iterations": 9}}
        small = table(rows=(Row("LoDM", Component("CondensedReplay"), sources=sources),), presets=presets)
        cells = small.cells(preset="short", seeds=(1, 2, 3, 4))[:4]
        assert [source.seed for cell in cells for source in cell.sources] == [6, 5, 6, 5]
        assert {cell.train_epochs for cell in cells} == {7}
        assert not any("iterations" in cell.strategy.options for cell in cells)
        (source,) = cells[0].sources
        assert source.label() == "Condensation on SplitDigits, seed 6"
        assert source.train_epochs == 1
        assert source.strategy.options == {"rank": 2, "iterations": 9}

    def test_settings_for_single_columns(self):
        sources = Sources(Component("Trace"), (1,), {"train_epochs": 4}, {"B": {"train_epochs": 9}})
        cells = table(rows=(Row("MLI", Component("Pruning"), sources=sources),)).cells()
        assert {(cell.column, cell.sources[0].train_epochs) for cell in cells} == {("A", 4), ("B", 9)}
        bad = dataclasses.replace(sources, settings_by_column={"C": {}})
        with pytest.raises(ValueError, match="unknown column 'C'"):
            table(rows=(Row("MLI", Component("Pruning"), sources=bad),))

    def test_presets_and_overrides_hold_for_them_too(self):
        cells = self.TABLE.cells(preset="short", overrides={"strategy.lr": 0.3, "device": "cuda", "model.dropout": 0.5})
        assert [cell.seed for cell in cells] == [7] * 4
        for cell in cells:
            (source,) = cell.sources
            assert (source.seed, source.train_epochs, source.device) == (8, 1, "cuda")
            assert source.strategy.options == {"lr": 0.3}
            assert cell.strategy.options["scoring_epochs"] == 2
        assert cells[0].sources[0].model.options == {"dropout": 0.5}
        assert cells[0].model.options == {}

    def test_they_are_no_setting(self):
        with pytest.raises(ValueError, match="unknown setting 'sources'"):
            self.TABLE.cells(overrides={"sources": []})
        with pytest.raises(ValueError, match="unknown setting 'sources'"):
            self.TABLE.cells()[0].with_settings({"sources": []})
