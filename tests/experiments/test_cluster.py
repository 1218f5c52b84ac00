"""A real Ray cluster of two nodes on this machine, one of which is killed in the middle of a cell.

The first tests do without one: they call the keeper of the results directly.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import logging
import os
import re
import signal
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from clpack.experiments import run
from clpack.experiments.config import Column, Component, Experiment, Row, Sources
from clpack.experiments.run import run_experiment
from clpack.experiments.store import ResultStore

TABLE = Experiment(
    name="test/cluster",
    title="A table for many machines",
    paper="",
    rows=(
        Row("SGD", Component("Naive", {"lr": 0.3})),
        Row("Replay", Component("Replay", {"lr": 0.3, "mem_size": 100})),
        Row(
            "MLI",
            Component("Pruning", {"lr": 0.3, "score": "mli"}),
            sources=Sources(Component("Trace", {"lr": 0.3}), (1,)),
        ),
    ),
    columns=(
        Column(
            "Digits",
            Component("SplitDigits", {"n_experiences": 2, "seed": 0}),
            Component("MLP", {"hidden_sizes": [16]}),
            {"train_epochs": 2, "train_mb_size": 32},
        ),
    ),
    seeds=(1,),
)
CELL = TABLE.cells()[0]
KEY = CELL.key()
WORKERS = """
import math, time
from pathlib import Path

import ray
from clpack.experiments.run import attempt_cell
from clpack.experiments.store import ResultStore

ORDER = Path(__file__).with_name("order")  # "NODE ITERATION": cells stop there, and those on the node say so
BEGUN = Path(__file__).with_name("begun")  # "CELL ITERATION": with which one each attempt began


tell = None


def attempt(config, **options):
    global tell
    from clpack.experiments.cell import _ProgressPlugin

    tell = tell or _ProgressPlugin.after_training_iteration
    begun = []

    def after_training_iteration(self, strategy, **kwargs):
        self._told_at = -math.inf
        tell(self, strategy, **kwargs)
        iteration = strategy.clock.train_iterations
        if not begun:
            begun.append(iteration)
            with BEGUN.open("a") as file:
                print(config.key(), iteration, file=file)
        while ORDER.exists() and iteration >= int(ORDER.read_text().split()[1]):
            if ORDER.read_text().split()[0] == ray.get_runtime_context().get_node_id():
                ORDER.with_name("stopped").write_text(config.key())
                time.sleep(600)  # until it is killed
            time.sleep(0.05)

    _ProgressPlugin.after_training_iteration = after_training_iteration
    return attempt_cell(config, **options)


class Elsewhere(ResultStore):
    "A folder of results that lies on another machine for all workers, but not for the actor that is beside it."

    def __reduce__(self):
        return open_there, (str(self.root),)


def open_there(root):
    return Elsewhere(root if ray.get_runtime_context().get_actor_id() else f"{root} elsewhere")
"""


def module():
    """The module tested, which imports Ray."""
    from clpack.experiments import cluster

    return cluster


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """A folder with the results of the table, computed one after the other without a break."""
    root = tmp_path_factory.mktemp("serial")
    assert len(run_experiment(TABLE, out=root).with_status("done")) == 4
    return root


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """The module that the workers import, which stops cells on order."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "workers_for_tests.py").write_text(textwrap.dedent(WORKERS))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield importlib.import_module("workers_for_tests")
    sys.modules.pop("workers_for_tests")


@pytest.fixture(scope="module")
def cluster(workers):
    """A cluster of one node, which stays."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "num_gpus": 1, "include_dashboard": False, "object_store_memory": 2**27}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def doomed(cluster, workers, monkeypatch):
    """A second node of the cluster."""
    monkeypatch.setattr(run, "attempt_cell", workers.attempt)
    node = cluster.add_node(num_cpus=1, object_store_memory=2**27)
    yield node
    for path in (workers.ORDER, workers.BEGUN):
        path.unlink(missing_ok=True)
    if node in cluster.list_all_nodes():
        cluster.remove_node(node)


@pytest.fixture
def interruptible():
    """Makes an interrupt arrive also where it is ignored: in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def when_stopped(node, workers, iteration, strike):
    """Once a cell on the node has done so many iterations, strikes; returns what joins and tells which cell it was."""
    stopped = workers.ORDER.with_name("stopped")
    stopped.unlink(missing_ok=True)
    workers.ORDER.write_text(f"{node.node_id} {iteration}")
    struck = []

    def watch():
        deadline = time.monotonic() + 300
        while not stopped.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if stopped.exists():
            struck.append(stopped.read_text())
            strike(struck[0])
        else:
            workers.ORDER.unlink()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def join():
        thread.join()
        return struck[0]

    return join


def kill(cluster, node, workers):
    """Returns what kills the node and lets the cells go on that stopped on the other one."""

    def strike(key):
        cluster.remove_node(node, allow_graceful=False)
        workers.ORDER.unlink()

    return strike


def begun(workers, key):
    """The iterations that the attempts at a cell began with."""
    lines = workers.BEGUN.read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith(key)]


def contents(root):
    """What must not depend on where cells were computed: results, logged metrics, and the names of all other files."""
    store = ResultStore(root)
    found = {}
    for folder in (store.root / "cells").iterdir():
        with (folder / "metrics.csv").open() as file:
            rows = [row for row in csv.reader(file) if not re.search("Seconds|Peak_Memory", row[1])]
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.parent.name != "tb")
        found[folder.name] = json.dumps(store.result(folder.name)["result"]), rows, names
    return found


class Shared(ResultStore):
    """On a file system whose locks keep out other processes only, as those of NFS do."""

    @contextlib.contextmanager
    def claim(self, key, *, wait=False):
        yield True


class Called:
    """Calls the keeper as Ray would; keeps what was sent of each cell."""

    def __init__(self, keeper):
        self.keeper = keeper
        self.sent = []

    def __getattr__(self, name):
        def remote(*arguments):
            if name in ("save", "release"):
                self.sent.append({file for file, content in arguments[2].items() if content is not None})
            future = Future()
            future.set_result(getattr(self.keeper, name)(*arguments))
            return SimpleNamespace(future=lambda: future)

        return SimpleNamespace(remote=remote)


def write(store, *names):
    """Changes files of the cell."""
    for name in names:
        path = store.folder(KEY) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write("more")


@pytest.fixture
def near(tmp_path):
    """The store beside a keeper."""
    return Shared(tmp_path / "near")


@pytest.fixture
def keeper(near):
    return module()._Keeper(near)


@pytest.fixture
def far(keeper, tmp_path):
    """A store that goes through the keeper."""
    return module()._RemoteStore(tmp_path / "far", Called(keeper), "task")


def test_a_cell_belongs_to_one_task(keeper, near):
    assert keeper.claim(KEY, "first") == {}
    assert keeper.claim(KEY, "second") is None
    for act in (
        lambda owner: keeper.set_progress(CELL, owner, 0.5),
        lambda owner: keeper.save(KEY, owner, {"log.txt": b"saved"}),
        lambda owner: keeper.release(KEY, owner, {"log.txt": b"released"}),
    ):
        before = near.pack(KEY), near.progress()
        act("second")
        assert (near.pack(KEY), near.progress()) == before
        act("first")
        assert (near.pack(KEY), near.progress()) != before
    assert keeper.claim(KEY, "second") == {"log.txt": b"released"}


def test_nothing_is_taken_from_a_task_that_was_dismissed(keeper, near):
    assert keeper.claim(KEY, "first") == {}
    assert keeper.claim("another", "second") == {}
    keeper.dismiss(["first"])
    with pytest.raises(RuntimeError, match="this attempt was given up"):
        keeper.claim(KEY, "first")
    keeper.save(KEY, "first", {"log.txt": b""})
    keeper.set_progress(CELL, "first", 0.5)
    assert (near.pack(KEY), near.progress()) == ({}, {})
    assert keeper.claim("another", "third") is None
    assert keeper.claim(KEY, "third") == {}


def test_what_changes_before_the_training_is_sent(far, near, monkeypatch):
    monkeypatch.setattr(module(), "_SAVE_EVERY", 0.01)
    with far.claim(KEY):
        for names in (
            ["config.json", "console.txt"],
            ["condensed/experts_000_000/expert_0000.safetensors", "tb/events"],
            ["condensed/condensation_000_000.safetensors"],
        ):
            write(far, "log.txt", *reversed(names))
            deadline = time.monotonic() + 60
            while near.pack(KEY) != far.pack(KEY) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert near.pack(KEY) == far.pack(KEY)


def test_files_that_have_not_changed_are_not_sent_again(far, near):
    write(near, "condensed/experts_000_000/expert_0000.safetensors", "error.json")
    sent = far._keeper.sent
    with far.claim(KEY):
        write(far, "checkpoint/state.safetensors", "log.txt")
        far.set_progress(CELL, 0.1)
        write(far, "log.txt", "tb/events")
        far.set_progress(CELL, 0.2)
        write(far, "checkpoint/state.safetensors")
        far.set_progress(CELL, 0.3)
        (far.folder(KEY) / "error.json").unlink()
        write(far, "log.txt")
    assert sent == [
        {"checkpoint/state.safetensors", "log.txt"},
        {"checkpoint/state.safetensors", "log.txt", "tb/events"},
        {"log.txt"},
    ]
    assert near.pack(KEY) == far.pack(KEY)
    assert "error.json" not in near.pack(KEY)


def test_a_worker_ends_when_the_keeper_cannot_be_reached(monkeypatch):
    from ray.exceptions import RayActorError

    future = Future()
    future.set_exception(RayActorError())

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit, match="1"):
        module()._answer(SimpleNamespace(future=lambda: future))


def test_folders_of_killed_workers_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "clpack-ray-left"
    (left / "cells").mkdir(parents=True)
    left.with_suffix(".lock").touch()
    (tmp_path / "another").mkdir()
    with module()._temporary_folder() as first:
        assert not left.exists()
        with module()._temporary_folder() as second:
            assert first.is_dir()
            assert second.is_dir()
            assert second != first
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_a_node_is_lost(cluster, doomed, workers, serial, tmp_path):
    join = when_stopped(doomed, workers, 30, kill(cluster, doomed, workers))
    summary = run_experiment(TABLE, out=tmp_path, executor="ray", checkpoint_every=5)
    assert begun(workers, join()) == [0, 30]  # it goes on from its checkpoint
    assert [outcome.status for outcome in summary.outcomes] == ["done"] * 4, summary
    assert contents(tmp_path) == contents(serial)
    assert list((tmp_path / "running").iterdir()) == []


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_and_a_lost_node_without_a_shared_folder(cluster, doomed, workers, serial, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ResultStore", workers.Elsewhere)
    out = tmp_path / "out"
    store = ResultStore(out)
    progress = []

    def interrupt(key):
        progress.append(store.progress()[key])
        os.kill(os.getpid(), signal.SIGINT)

    join = when_stopped(doomed, workers, 20, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(TABLE, out=out, executor="ray", checkpoint_every=5)
    interrupted = join()
    assert 0 < progress[0]["fraction"] < 1
    assert (store.folder(interrupted) / "checkpoint" / "state.safetensors").is_file()
    with store.claim(interrupted) as free:
        assert free

    join = when_stopped(doomed, workers, 30, kill(cluster, doomed, workers))
    summary = run_experiment(TABLE, out=out, executor="ray", checkpoint_every=5)
    lost = join()
    assert begun(workers, interrupted)[:2] == [0, 20]
    assert begun(workers, lost)[-1] == 30
    assert [outcome.status for outcome in summary.outcomes] == ["done"] * 4, summary
    assert contents(out) == contents(serial)
    assert list((out / "running").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # and nothing elsewhere


def test_a_cell_that_kills_its_workers_is_given_up(cluster, tmp_path, monkeypatch):
    def die(cell, *, store, wait):
        with (store.root / "attempts").open("a") as file:
            print(wait, file=file)
        os._exit(1)

    monkeypatch.setattr(module(), "_ATTEMPTS", 2)
    computed = module().on_ray(die, [CELL], store=ResultStore(tmp_path), lost=lambda *loss: loss, resources={})
    ((cell, reason),) = computed
    assert cell == CELL
    assert re.fullmatch("Ray gave it up: The worker died unexpectedly .*", reason)
    assert (tmp_path / "attempts").read_text() == "False\nTrue\n"  # the second one waits for the lock of the first


def test_what_a_worker_raises_is_not_tried_again(cluster, tmp_path):
    computed = module().on_ray(int, [CELL], store=ResultStore(tmp_path), lost=lambda *loss: loss, resources={})
    ((_, reason),) = computed
    assert reason.startswith("Ray gave it up: TypeError: ")


def test_what_a_cell_takes(cluster, tmp_path):
    def assigned(cell, **options):
        import ray

        return ray.get_runtime_context().get_assigned_resources()

    cells = [CELL, CELL.with_settings({"device": "cuda"})]
    for resources, expected in (
        ({}, [{"CPU": 1}, {"CPU": 1, "GPU": 1}]),
        ({"num_cpus": 0.5, "num_gpus": 0.25}, [{"CPU": 0.5, "GPU": 0.25}] * 2),
    ):
        computed = module().on_ray(assigned, cells, store=ResultStore(tmp_path), lost=int, resources=resources)
        assert sorted(computed, key=len) == expected


@pytest.mark.parametrize(
    ("resources", "needs"),
    [({"num_cpus": 64}, "CPU 64"), ({"tpu": 1, "memory": 5e8}, "CPU 1, memory 5e+08, tpu 1")],
)
def test_resources_that_no_machine_has(cluster, tmp_path, resources, needs):
    computed = module().on_ray(int, [CELL], store=ResultStore(tmp_path), lost=int, resources=resources)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=f"no machine of the Ray cluster has {re.escape(needs)}; cells wait"):
            next(computed)


def test_a_run_that_does_not_stand_beside_the_results(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ResultStore, "mark", lambda self: contextlib.nullcontext("of another folder"))
    computed = module().on_ray(int, [CELL], store=ResultStore(tmp_path), lost=int, resources={})
    with pytest.raises(ValueError, match="Ray does not see the results in .*; start the run on a machine of the clu"):
        next(computed)
