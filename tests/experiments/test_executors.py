from __future__ import annotations

import importlib
import multiprocessing
import sys
import textwrap

import pytest

from clpack.experiments import executors
from clpack.experiments.config import Component, RunConfig

CELLS = [RunConfig(Component("S"), Component("M"), Component("N"), seed=seed) for seed in range(1, 7)]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Work that spawned processes can import: returns seed and process; seed 3 kills its process."""
    (tmp_path / "work_for_tests.py").write_text(
        textwrap.dedent("""
        import os, signal, time

        def work(cell):
            if cell.seed == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return cell.seed, os.getpid()

        def leave(cell):
            os._exit(7)

        def sleep(cell):
            if cell.seed == 1:
                return cell.seed
            time.sleep(600)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("work_for_tests")
    sys.modules.pop("work_for_tests")


def lost(cell, reason):
    return cell.seed, reason


def test_in_this_process():
    assert list(executors.in_this_process(lambda cell: cell.seed, CELLS)) == [1, 2, 3, 4, 5, 6]


def test_a_killed_process_loses_its_cell_only(work):
    outcomes = dict(executors.in_processes(work.work, CELLS, jobs=2, lost=lost))
    assert sorted(outcomes) == [1, 2, 3, 4, 5, 6]
    assert outcomes.pop(3) == "its process was killed by SIGKILL (often: out of memory)"
    assert len(set(outcomes.values())) <= 3  # two processes and the one hired for the dead


def test_no_more_processes_than_cells_and_their_exit_status(work):
    assert list(executors.in_processes(work.leave, CELLS[:1], jobs=8, lost=lost)) == [
        (1, "its process ended with exit status 7")
    ]


def test_leaving_early_ends_the_processes(work):
    stream = executors.in_processes(work.sleep, CELLS, jobs=2, lost=lost)
    assert next(stream) == 1
    running = multiprocessing.active_children()
    assert running
    stream.close()
    assert not any(process.is_alive() for process in running)


def test_no_cells(work):
    assert list(executors.in_processes(work.work, [], jobs=2, lost=lost)) == []
