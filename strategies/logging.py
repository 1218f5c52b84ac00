"""Log files that survive a crash and a resume: after both they hold exactly what an undisturbed run writes."""

from __future__ import annotations

import csv
import io
import numbers
import os
from pathlib import Path

import torch
from avalanche.evaluation.metric_results import MetricValue
from avalanche.logging import BaseLogger

__all__ = ["LogFile", "MetricsCSVLogger"]


class LogFile:
    """A text file to write to, for example ``TextLogger(LogFile("log.txt"))``.

    It remembers how much of the file is its own. What lies beyond, left by a run that was interrupted after its last
    checkpoint, is cut off at the next write; so a resumed run continues where its checkpoint left, and a new run
    starts with an empty file. The file is opened for each write only.

    Args:
        path: where to write; the folder is created at the first write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(path)
        self.size = 0

    def write(self, text: str) -> int:
        """Appends ``text``; returns the number of characters written."""
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(self.size)
            file.seek(self.size)
            file.write(text.encode())
            self.size = file.tell()
        return len(text)

    def checkpoint_state(self) -> dict[str, int]:
        """What a checkpoint keeps: how much was written, but not where, which is for each run to say."""
        return {"size": self.size}

    def load_checkpoint_state(self, state: dict[str, int]) -> None:
        """Goes on after what was written when the checkpoint was taken."""
        self.size = state["size"]

    def flush(self) -> None:
        """Does nothing: every write reaches the file at once."""


class MetricsCSVLogger(BaseLogger):
    """Writes every scalar metric as one row ``step,metric,value`` of a CSV file that any script can read.

    Unlike Avalanche's ``CSVLogger`` it takes all metrics, those of plugins included, and keeps its rows on a resume.

    Args:
        path: the file, conventionally ``metrics.csv``. A new run replaces an old file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.file = LogFile(path)

    def log_metrics(self, metric_values: list[MetricValue]) -> None:
        """Appends the scalars among the values."""
        buffer = io.StringIO()
        rows = csv.writer(buffer, lineterminator="\n")
        if not self.file.size:
            rows.writerow(("step", "metric", "value"))
        for metric in metric_values:
            value = metric.value
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                value = value.item()
            if isinstance(value, numbers.Real):
                rows.writerow((metric.x_plot, metric.name, float(value)))
        if metric_values:
            self.file.write(buffer.getvalue())
