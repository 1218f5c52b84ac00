from __future__ import annotations

import time

import pytest

from clpack.experiments.config import Component, RunConfig
from clpack.experiments.progress import ProgressDisplay
from clpack.experiments.run import CellOutcome
from clpack.experiments.store import ResultStore

CELL = RunConfig(Component("S"), Component("M"), Component("N"), row="SGD [lr=1]", column="Digits")


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path)


def test_lines_where_there_is_no_terminal(store, capsys):
    with ProgressDisplay(store, [CELL.key(), "other"]) as display:
        display.finished(CellOutcome(CELL.key(), CELL.label(), "done", 1.25))
        display.finished(CellOutcome("other", "x" * 200, "failed", 1.0, "ValueError: no"))
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "[1/2] done   SGD [lr=1] on Digits, seed 1: 1.2 s",
        f"[2/2] failed {'x' * 200}: ValueError: no",
    ]
    assert captured.out == ""


def test_bars_of_the_running_cells_in_a_terminal(store, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with store.claim(CELL.key()), ProgressDisplay(store, [CELL.key()]) as display:
        store.set_progress(CELL, 0.25)
        deadline = time.monotonic() + 10
        while len(display._bars.tasks) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        overall, running = display._bars.tasks
        assert (running.description, running.completed, overall.completed) == (CELL.label(), 0.25, 0)
        display.finished(CellOutcome(CELL.key(), CELL.label(), "done", 1.0))
        assert [task.completed for task in display._bars.tasks] == [1]
    error = capsys.readouterr().err
    assert "SGD [lr=1] on Digits, seed 1" in error
    assert "25%" in error
