from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import clpack.experiments
from clpack.experiments import build, cluster, executors
from clpack.experiments.config import Column, Component, Experiment, Row, Sources
from clpack.experiments.run import run_experiment, shard_of
from clpack.experiments.store import ResultStore

TRACE = Component("Trace", {"lr": 0.1})
TABLE = Experiment(
    name="test/table",
    title="A table",
    paper="",
    rows=(Row("SGD", Component("Naive", {"lr": 0.1})), Row("Replay", Component("Replay", {"lr": 0.1}))),
    columns=(Column("Digits", Component("SplitDigits", {"n_experiences": 5}), Component("MLP")),),
    seeds=(1, 2),
    presets={"smoke": {"seeds": (9,)}},
)
SCORED = replace(
    TABLE,
    rows=(
        *(
            Row(score, Component("Pruning", {"lr": 0.1, "score": score}), sources=Sources(TRACE, (1, 2)))
            for score in ("mli", "aum")
        ),
        TABLE.rows[0],
    ),
    seeds=(3,),
)


class FakeCell:
    """Stands in for the module that trains: records its calls, fails on demand."""

    def __init__(self):
        self.calls = []
        self.broken = set()

    def run_cell(self, config, store, *, checkpoint_every):
        self.calls.append((config.strategy.name, config.seed))
        print("trained")
        if self.calls[-1] in self.broken:
            raise ValueError("the loss is NaN")
        store.finish(config, {"seed": config.seed}, {})


@pytest.fixture
def cell(monkeypatch):
    cell = FakeCell()
    monkeypatch.setitem(sys.modules, "clpack.experiments.cell", SimpleNamespace(run_cell=cell.run_cell))
    return cell


def statuses(summary):
    return [outcome.status for outcome in summary.outcomes]


def test_finished_cells_are_reused(cell, tmp_path):
    first = run_experiment(TABLE, seeds=[1], out=tmp_path)
    assert statuses(first) == ["done", "done"]
    second = run_experiment(TABLE, out=tmp_path)
    assert sorted(statuses(second)) == ["done", "done", "reused", "reused"]
    assert sorted(cell.calls) == [("Naive", 1), ("Naive", 2), ("Replay", 1), ("Replay", 2)]
    assert str(second) == "4 cells: 2 computed, 2 reused"


def test_a_changed_setting_is_another_cell(cell, tmp_path):
    run_experiment(TABLE, seeds=[1], out=tmp_path)
    assert statuses(run_experiment(TABLE, seeds=[1], out=tmp_path, overrides={"train_epochs": 2})) == ["done", "done"]


def test_equal_cells_are_computed_once(cell, tmp_path):
    twin = Experiment("t/t", "", "", (TABLE.rows[0], Row("again", TABLE.rows[0].strategy)), TABLE.columns, (1,))
    assert statuses(run_experiment(twin, out=tmp_path)) == ["done"]


def test_a_failed_cell_is_isolated_and_retried(cell, tmp_path):
    cell.broken.add(("Naive", 2))
    summary = run_experiment(TABLE, out=tmp_path)
    assert statuses(summary) == ["done", "failed", "done", "done"]
    assert str(summary) == (
        "4 cells: 3 computed, 1 failed\n  failed: SGD on Digits, seed 2: ValueError: the loss is NaN"
    )
    key = summary.with_status("failed")[0].key
    store = ResultStore(tmp_path)
    assert store.error(key) == "ValueError: the loss is NaN"
    assert "in run_cell" in (store.folder(key) / "error.json").read_text()

    cell.broken.clear()
    assert sorted(statuses(run_experiment(TABLE, out=tmp_path))) == ["done", "reused", "reused", "reused"]
    assert store.error(key) is None


def test_a_cell_in_other_hands_is_left_alone(cell, tmp_path):
    key = TABLE.cells()[0].key()
    with ResultStore(tmp_path).claim(key):
        summary = run_experiment(TABLE, out=tmp_path)
    assert [outcome.key for outcome in summary.with_status("busy")] == [key]
    assert ("Naive", 1) not in cell.calls


def test_sources_are_computed_first_and_once(cell, tmp_path, capsys):
    summary = run_experiment(SCORED, out=tmp_path)
    assert cell.calls == [("Trace", 1), ("Trace", 2), ("Naive", 3), ("Pruning", 3), ("Pruning", 3)]
    assert str(summary) == "5 cells: 5 computed"
    assert "[1/5] done   Scoring run on SplitDigits, seed 1" in capsys.readouterr().err
    assert len(ResultStore(tmp_path).plans()[0]["cells"]) == 3  # they stand in no table
    run_experiment(SCORED, out=tmp_path, seeds=[3, 4])
    assert cell.calls[5:] == [("Naive", 4), ("Pruning", 4), ("Pruning", 4)]


def test_a_failed_source_fails_the_cells_that_need_it(cell, tmp_path):
    cell.broken.add(("Trace", 2))
    summary = run_experiment(SCORED, out=tmp_path)
    assert statuses(summary) == ["done", "failed", "done", "failed", "failed"]
    key = SCORED.cells()[0].sources[1].key()
    assert summary.outcomes[-1].reason == (
        f"its source failed: Scoring run on SplitDigits, seed 2, cell {key}: ValueError: the loss is NaN"
    )
    assert ResultStore(tmp_path).error(SCORED.cells()[0].key()) == summary.outcomes[-1].reason
    assert cell.calls.count(("Trace", 2)) == 1

    cell.broken.clear()
    assert sorted(statuses(run_experiment(SCORED, out=tmp_path))) == ["done"] * 3 + ["reused"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_source_in_other_hands_is_waited_for(cell, tmp_path, killed):
    store, source = ResultStore(tmp_path), SCORED.cells()[0].sources[0]
    claimed = threading.Event()
    store.fail(source, "the disk was full last week")

    def other_process():
        with store.claim(source.key()):
            store.start(source)
            claimed.set()
            time.sleep(0.3)
            if not killed:
                store.finish(source, {}, {})

    thread = threading.Thread(target=other_process)
    thread.start()
    claimed.wait()
    summary = run_experiment(SCORED, out=tmp_path)
    thread.join()
    assert statuses(summary) == ["busy", "done", "done", "done", "done"]
    assert cell.calls.count(("Trace", 1)) == killed  # then it is computed here


def test_shards_share_the_sources(cell, tmp_path):
    for index in range(3):
        run_experiment(SCORED, out=tmp_path, shard=(index, 3))
    assert sorted(cell.calls) == [("Naive", 3), ("Pruning", 3), ("Pruning", 3), ("Trace", 1), ("Trace", 2)]


def test_sources_need_a_strategy_that_takes_scores(cell, tmp_path):
    table = replace(SCORED, rows=(replace(SCORED.rows[0], strategy=TABLE.rows[0].strategy),))
    with pytest.raises(ValueError, match="row 'mli' has sources, but its strategy 'Naive' does not take their scores"):
        run_experiment(table, out=tmp_path)
    assert cell.calls == []


def test_an_interrupt_ends_the_run_and_the_next_one_goes_on(cell, tmp_path, monkeypatch):
    def interrupted(config, store, *, checkpoint_every):
        if cell.calls:
            raise KeyboardInterrupt
        cell.run_cell(config, store, checkpoint_every=checkpoint_every)

    monkeypatch.setattr(sys.modules["clpack.experiments.cell"], "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(TABLE, out=tmp_path)
    monkeypatch.setattr(sys.modules["clpack.experiments.cell"], "run_cell", cell.run_cell)
    assert sorted(statuses(run_experiment(TABLE, out=tmp_path))) == ["done", "done", "done", "reused"]


def test_shards_cover_all_cells_once(cell, tmp_path):
    for index in range(3):
        run_experiment(TABLE, out=tmp_path, shard=(index, 3))
    assert sorted(cell.calls) == [("Naive", 1), ("Naive", 2), ("Replay", 1), ("Replay", 2)]
    assert len(ResultStore(tmp_path).plans()[0]["cells"]) == 4  # every shard writes the whole plan


@pytest.mark.parametrize(("n_keys", "n_shards"), list(itertools.product((0, 1, 7, 12), (1, 3, 12, 13))))
def test_shard_of(n_keys, n_shards):
    keys = [f"{i:02}" for i in range(n_keys)]
    parts = [shard_of(keys[::-1], index, n_shards) for index in range(n_shards)]
    assert sorted(itertools.chain(*parts)) == keys
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_plan_of_a_preset_stands_beside_that_of_the_paper(cell, tmp_path):
    assert run_experiment(TABLE, out=tmp_path).table == "test/table"
    assert run_experiment(TABLE, out=tmp_path, preset="smoke").table == "test/table.smoke"
    assert [plan["name"] for plan in ResultStore(tmp_path).plans()] == ["test/table", "test/table.smoke"]


def test_chosen_rows_join_those_that_were_chosen_before(cell, tmp_path):
    def planned():
        (plan,) = ResultStore(tmp_path).plans()
        return [(entry["row"], entry["settings"]["seed"]) for entry in plan["cells"]]

    run_experiment(TABLE, rows=["Replay"], out=tmp_path)
    assert planned() == [("Replay", 1), ("Replay", 2)]
    run_experiment(TABLE, rows=["SGD"], columns=["Digits"], out=tmp_path)
    assert planned() == [("SGD", 1), ("SGD", 2), ("Replay", 1), ("Replay", 2)]
    assert sorted(cell.calls) == [("Naive", 1), ("Naive", 2), ("Replay", 1), ("Replay", 2)]
    run_experiment(TABLE, rows=["SGD"], out=tmp_path / "other")
    run_experiment(TABLE, out=tmp_path / "other")
    assert len(ResultStore(tmp_path / "other").plans()[0]["cells"]) == 4


def test_what_a_run_prints_goes_to_a_file(cell, tmp_path, capsys):
    summary = run_experiment(TABLE, seeds=[1], out=tmp_path)
    log = ResultStore(tmp_path).folder(summary.outcomes[0].key) / "console.txt"
    assert log.read_text() == "trained\n"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0].startswith("[1/2] done   SGD on Digits, seed 1: 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"shard": (2, 2)}, "shard must be I/N with 0 <= I < N, got 2/2"),
        ({"executor": "slurm"}, "unknown executor 'slurm': expected one of local, ray"),
        ({"preset": "short"}, "unknown preset 'short'"),
        ({"overrides": {"stream": "SplitDigit"}}, "unknown stream 'SplitDigit': did you mean 'SplitDigits'"),
        ({"overrides": {"strategy": "replai"}}, "unknown strategy 'replai': did you mean 'Replay'"),
        ({"overrides": {"strategy.lr": 0}}, "lr must be positive, got 0"),
        ({"overrides": {"model": "Foo"}}, "unknown model 'Foo': expected one of MLP, "),
        ({"overrides": {"model": "ReducedResNet18"}}, "input_size must be at least 25 pixels .*, got 8"),
        ({"overrides": {"device": "banana"}}, "device must be one of torch, such as cpu, cuda or cuda:1, got 'banana'"),
        ({"overrides": {"device": "cuda:999"}}, r"device is 'cuda:999', but torch sees \d+ CUDA devices here"),
        ({"overrides": {"stream.n_experiences": 3}}, "must divide the 10 classes evenly: got 3, expected one of"),
        ({"seeds": [3, 2**64]}, "seed must be at most 18446744073709551615 for this stream, got 18446744073709551616"),
        ({"address": "head:6379"}, "address is for Ray, got 'head:6379' with executor 'local'; add --executor ray"),
        ({"resources": {"num_gpus": 1}}, "resources is for Ray, got {'num_gpus': 1} with executor 'local'"),
        (
            {"executor": "ray", "jobs": 2},
            "jobs is for the executor 'local', got 2 with 'ray'",
        ),
        ({"executor": "ray", "resources": {"num_gpus": -1}}, "resource num_gpus must be a number that is not negative"),
        ({"executor": "ray", "resources": {"memory": "4G"}}, "resource memory must be a number .*, got '4G'"),
        (
            {"executor": "ray", "resources": {"accelerator_type": 1}},
            "accelerator_type must be text such as A100",
        ),
    ],
)
def test_bad_input_is_found_before_anything_runs(cell, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_experiment(TABLE, out=tmp_path, **arguments)
    assert cell.calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("component", "options", "message"),
    [
        ("strategy", {"lr": 0.1, "memory": 3}, "unknown Replay option 'memory'"),
        ("strategy", {"lr": 0.1, "mem_size": 0}, "mem_size must be at least 1, got 0"),
        ("strategy", {"lr": 0.1, "device": "cpu"}, "unknown Replay option 'device'"),
        ("stream", {"n_experience": 5}, "unknown SplitDigits argument 'n_experience': did you mean 'n_experiences'"),
        (
            "model",
            {"hidden": [8]},
            r"unknown MLP option 'hidden': .*expected one of dropout, head, hidden_sizes, input_s",
        ),
        ("model", {"hidden_sizes": [0]}, r"hidden_sizes must hold at least one positive width, got \(0,\)"),
        ("model", {"num_classes": 3}, "unknown MLP option 'num_classes'"),
        ("model", {"head": "double"}, "'incremental', 'cosine' or 'multi', got 'double'"),
    ],
)
def test_bad_options_are_found_before_anything_runs(cell, tmp_path, component, options, message):
    column, row = TABLE.columns[0], TABLE.rows[1]
    if component == "strategy":
        row = replace(row, strategy=Component("Replay", options))
    else:
        column = replace(column, **{component: replace(getattr(column, component), options=options)})
    with pytest.raises((ValueError, TypeError), match=message):
        run_experiment(replace(TABLE, rows=(row,), columns=(column,)), out=tmp_path)
    assert cell.calls == []
    assert list(tmp_path.iterdir()) == []


def test_each_component_is_checked_once(cell, tmp_path, monkeypatch):
    checked = []
    for name in ("check_strategy", "check_benchmark", "check_model"):
        monkeypatch.setattr(build, name, lambda config, name=name: checked.append((name, config.label())))
    monkeypatch.setattr(build, "check_device", lambda device, here: checked.append((device, here)))
    run_experiment(TABLE, out=tmp_path, seeds=[1, 2])
    assert checked == [
        ("cpu", True),
        ("check_strategy", "SGD on Digits, seed 1"),
        ("check_strategy", "Replay on Digits, seed 1"),
        ("check_benchmark", "SGD on Digits, seed 1"),
        ("check_benchmark", "SGD on Digits, seed 2"),
        ("check_model", "SGD on Digits, seed 1"),
    ]
    checked.clear()
    run_experiment(TABLE, out=tmp_path, seeds=[1, 2])
    assert checked == []  # everything is finished


def test_the_checks_draw_no_random_numbers(cell, tmp_path):
    state = torch.get_rng_state()
    run_experiment(TABLE, out=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_gpu_may_be_missing_here_when_ray_computes(cell, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "on_ray", lambda work, cells, **options: executors.in_this_process(work, cells))
    monkeypatch.setattr(cluster, "ray_cluster", contextlib.nullcontext)
    overrides = {"device": "cuda:999"}
    assert statuses(run_experiment(TABLE, out=tmp_path, seeds=[1], overrides=overrides, executor="ray")) == ["done"] * 2
    with pytest.raises(ValueError, match="got 'banana'"):
        run_experiment(TABLE, out=tmp_path, overrides={"device": "banana"}, executor="ray")


def test_ray_missing(cell, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "clpack.experiments.cluster")
    monkeypatch.delattr(clpack.experiments, "cluster")
    with pytest.raises(ImportError, match=r"pip install 'clpack\[ray\]'"):
        run_experiment(TABLE, out=tmp_path, executor="ray")
    assert list(tmp_path.iterdir()) == []


def test_no_ray_cluster_at_the_address(cell, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"there is no Ray cluster at {address}: "):
            run_experiment(TABLE, out=tmp_path, executor="ray", address=address)
    assert cell.calls == []


def test_missing_data_is_found_before_anything_runs(cell, tmp_path, monkeypatch):
    monkeypatch.setenv("CLPACK_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="data set MNIST cannot be opened, 4 of its 4 files are missing"):
        run_experiment(TABLE, out=tmp_path, overrides={"stream": "SplitMNIST"})
    assert cell.calls == []
