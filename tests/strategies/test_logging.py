"""Log files: what they hold, and that a resumed run leaves what an undisturbed one would have left."""

from __future__ import annotations

import csv

import torch
from avalanche.evaluation.metric_results import MetricValue

from clpack.strategies import LogFile, MetricsCSVLogger


def values(*pairs):
    return [MetricValue(None, name, value, step) for step, (name, value) in enumerate(pairs)]


def test_rows_of_scalars(tmp_path):
    logger = MetricsCSVLogger(tmp_path / "logs" / "metrics.csv")
    logger.log_metrics(values(("Loss", 0.5), ("Alpha, mean", torch.tensor(2.0)), ("Picture", object()), ("N", 3)))
    logger.log_metrics([])
    logger.log_metrics(values(("Loss", 0.25)))
    with open(tmp_path / "logs" / "metrics.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["step", "metric", "value"],
        ["0", "Loss", "0.5"],
        ["1", "Alpha, mean", "2.0"],
        ["3", "N", "3.0"],
        ["0", "Loss", "0.25"],
    ]


def test_resumed_log_continues_where_the_checkpoint_left(tmp_path):
    path = tmp_path / "log.txt"
    first = LogFile(path)
    first.write("kept ä\n")
    saved = first.checkpoint_state()
    first.write("lost in the crash\n")
    resumed = LogFile(path)
    resumed.load_checkpoint_state(saved)
    resumed.write("again\n")
    assert path.read_text(encoding="utf-8") == "kept ä\nagain\n"


def test_new_run_starts_with_an_empty_file(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("of an earlier run\n")
    LogFile(path).write("new\n")
    assert path.read_text() == "new\n"
