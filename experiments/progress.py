"""The display of a running table: live bars in a terminal, one line per cell elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .store import ResultStore

if TYPE_CHECKING:
    from .run import CellOutcome

__all__ = ["ProgressDisplay"]


class ProgressDisplay:
    """Shows on the standard error what a run is doing, as a context manager.

    How far the running cells are is read from the store, twice a second, wherever they run.

    Args:
        store: the store of the run.
        keys: the cells to be computed.
    """

    def __init__(self, store: ResultStore, keys: Sequence[str]) -> None:
        self._store = store
        self._waiting = set(keys)
        self._total = len(keys)
        self._console = Console(file=sys.stderr)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not (self._console.is_terminal and keys),
        )
        self._cells: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._bars.start()
        self._overall = self._bars.add_task(f"{self._total} cells", total=self._total)
        if not self._bars.disable:
            self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._bars.stop()

    def finished(self, outcome: CellOutcome) -> None:
        """Takes the cell off the display and says in one line what became of it."""
        with self._lock:
            self._waiting.discard(outcome.key)
            if outcome.key in self._cells:
                self._bars.remove_task(self._cells.pop(outcome.key))
        self._bars.advance(self._overall)
        count = f"[{self._total - len(self._waiting)}/{self._total}]"
        details = outcome.reason or f"{outcome.seconds:.1f} s"
        line = f"{count} {outcome.status:<6} {outcome.label}: {details}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            running = self._store.progress()
            with self._lock:
                for key in self._waiting & running.keys():
                    if key not in self._cells:
                        self._cells[key] = self._bars.add_task(running[key]["label"], total=1.0)
                    self._bars.update(self._cells[key], completed=running[key]["fraction"])
