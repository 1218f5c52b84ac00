from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clpack.experiments.config import Component, RunConfig
from clpack.experiments.store import ResultStore

CELL = RunConfig(Component("SplitDigits"), Component("MLP"), Component("Naive"), row="SGD", column="Digits")
KEY = CELL.key()


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path)


def test_a_finished_cell(store):
    folder = store.start(CELL)
    assert json.loads((folder / "config.json").read_text()) == CELL.settings()
    assert store.result(KEY) is None
    (folder / "checkpoint").mkdir()
    store.fail(CELL, "no luck", "Traceback")
    assert store.error(KEY) == "no luck"
    store.start(CELL)
    assert store.error(KEY) is None  # that of the attempt before says nothing about this one

    store.fail(CELL, "no luck")
    store.finish(CELL, {"metrics": {"forgetting": 0.5}}, {"seconds": 1.5})
    assert store.result(KEY) == {
        "schema": 1,
        "key": KEY,
        "result": {"metrics": {"forgetting": 0.5}},
        "environment": {"seconds": 1.5},
    }
    assert store.error(KEY) is None
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "result.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b'{"schema": 1, "key', b"[]", b"\xff\xfe", b'{"schema": 2, "key": "KEY"}', b'{"schema": 1, "key": "x"}'],
)
def test_damaged_and_foreign_results_are_not_picked_up(store, content):
    store.finish(CELL, {}, {})
    path = store.folder(KEY) / "result.json"
    path.write_bytes(content.replace(b"KEY", KEY.encode()))
    assert store.result(KEY) is None


def test_a_result_that_was_not_renamed_yet_is_not_picked_up(store):
    store.finish(CELL, {}, {})
    path = store.folder(KEY) / "result.json"
    path.rename(path.with_name(".result.json.abc.partial"))
    assert store.result(KEY) is None


def test_nan_is_refused(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.finish(CELL, {"metrics": float("nan")}, {})
    assert store.result(KEY) is None


def test_progress_lasts_as_long_as_the_claim(store):
    with store.claim(KEY) as claimed:
        assert claimed
        store.set_progress(CELL, 0.25)
        assert store.progress() == {KEY: {"label": "SGD on Digits, seed 1", "fraction": 0.25}}
    assert store.progress() == {}


def test_a_mark_tells_a_folder_from_another_one(store, tmp_path_factory):
    with store.mark() as mark:
        assert ResultStore(store.root).has_mark(mark)
        assert not ResultStore(tmp_path_factory.mktemp("other")).has_mark(mark)
        assert store.progress() == {}
    assert not store.has_mark(mark)


def test_marks_of_runs_that_were_killed_are_removed(store):
    with store.mark() as mark:
        left = store.root / "running" / "left.mark"
        left.touch()
        with store.mark():
            assert store.has_mark(mark)
            assert not left.exists()


def test_files_of_a_cell_in_another_folder(store, tmp_path_factory):
    other = ResultStore(tmp_path_factory.mktemp("other"))
    store.start(CELL)
    for name in ("checkpoint/state.safetensors", "traces/0.npz", ".result.json.abc.partial"):
        path = store.folder(KEY) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\xff")
    other.unpack(KEY, store.pack(KEY))
    assert other.pack(KEY) == store.pack(KEY)
    assert sorted(other.pack(KEY)) == ["checkpoint/state.safetensors", "config.json", "traces/0.npz"]

    store.finish(CELL, {"seed": 1}, {})
    other.unpack(KEY, store.pack(KEY))
    assert sorted(path.name for path in other.folder(KEY).iterdir()) == ["config.json", "result.json", "traces"]
    assert other.result(KEY) == store.result(KEY)
    assert ResultStore(other.root / "empty").pack(KEY) == {}


def test_files_that_are_known_are_left_as_they_are(store, tmp_path_factory):
    other = ResultStore(tmp_path_factory.mktemp("other"))
    folder = store.start(CELL)
    (folder / "log.txt").write_text("a")
    other.unpack(KEY, store.pack(KEY))
    known = store.stamps(KEY)
    (folder / "log.txt").write_text("ab")
    (folder / "metrics.csv").touch()
    files = store.pack(KEY, known)
    assert files == {"config.json": None, "log.txt": b"ab", "metrics.csv": b""}
    other.unpack(KEY, files)
    assert other.pack(KEY) == store.pack(KEY)


def test_the_checkpoint_of_a_running_cell_is_packed_before_its_logs(store, monkeypatch):
    """What is written after the first file was read belongs to a later checkpoint; a file that vanishes is left out."""
    folder = store.start(CELL)
    for name in ("checkpoint/state", "condensed/condensation_000", "log.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("old")
    read = Path.read_bytes

    def read_bytes(path):
        content = read(path)
        if path.name == "state":
            for name in ("checkpoint/state", "log.txt", "metrics.csv"):
                (folder / name).write_text("newer")
        if path.name == "config.json":
            (folder / "condensed/condensation_000").unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    files = store.pack(KEY)
    del files["config.json"]
    assert files == {"checkpoint/state": b"old", "log.txt": b"newer", "metrics.csv": b"newer"}


def test_the_result_is_unpacked_last(store, monkeypatch):
    written = []
    monkeypatch.setattr("clpack.experiments.store.write_bytes", lambda path, content: written.append(path.name))
    store.unpack(KEY, dict.fromkeys(("checkpoint/state", "log.txt", "result.json", "traces/0.npz"), b""))
    assert written == ["log.txt", "0.npz", "state", "result.json"]


def test_plans(store):
    store.save_plan("tag/digits", {"name": "tag/digits"})
    store.save_plan("demo", {"name": "demo"})
    assert [plan["name"] for plan in store.plans()] == ["demo", "tag/digits"]


HOLDER = """
import sys, time
from clpack.experiments.store import ResultStore
with ResultStore(sys.argv[1]).claim(sys.argv[2]) as claimed:
    print(claimed, flush=True)
    sys.stdin.readline()
"""


def test_two_processes_cannot_hold_one_cell_and_a_killed_one_lets_go(store):
    def hold():
        command = [sys.executable, "-c", HOLDER, str(store.root), KEY]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline().strip()

    first, claimed = hold()
    assert claimed == "True"
    with store.claim(KEY) as mine:
        assert not mine
    with store.claim("another") as mine:
        assert mine
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    with store.claim(KEY) as mine:
        assert mine
        second, claimed = hold()
        assert claimed == "False"
        second.communicate("\n")
