"""Runs a table: its cells, those among them that are not finished yet, an executor, a summary."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clpack.benchmarks.files import check_files
from clpack.names import unknown_name

from . import executors
from .config import Experiment, RunConfig
from .progress import ProgressDisplay
from .store import ResultStore

__all__ = ["CellOutcome", "RunSummary", "attempt_cell", "run_experiment", "shard_of"]

Status = Literal["done", "reused", "failed", "busy"]
_EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class CellOutcome:
    """What became of one cell.

    Attributes:
        key: identity of the cell.
        label: its name for people.
        status: ``"done"`` now, ``"reused"`` from an earlier run, ``"failed"``, or ``"busy"``: another process
            has it in hand.
        seconds: time spent on it now.
        reason: why it failed, one line.
    """

    key: str
    label: str
    status: Status
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class RunSummary:
    """What became of all cells of a run.

    Attributes:
        outcomes: one entry per cell, in the order they were finished.
        table: name of the table and, except for ``"paper"``, the preset: ``"tag/digits.smoke"``.
        out: the folder of the results.
    """

    outcomes: tuple[CellOutcome, ...]
    table: str
    out: Path

    def with_status(self, status: Status) -> list[CellOutcome]:
        """Returns the outcomes of one kind."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    def __str__(self) -> str:
        """One line with the counts, and one per failed cell."""
        words: dict[Status, str] = {
            "done": "computed",
            "reused": "reused",
            "failed": "failed",
            "busy": "left to another process",
        }
        counts = [f"{len(self.with_status(status))} {words[status]}" for status in words if self.with_status(status)]
        failures = [f"  failed: {outcome.label}: {outcome.reason}" for outcome in self.with_status("failed")]
        return "\n".join([f"{len(self.outcomes)} cells: {', '.join(counts) or 'nothing to do'}", *failures])


def run_experiment(
    experiment: Experiment,
    *,
    preset: str = "paper",
    seeds: Sequence[int] | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] = "results",
    jobs: int = 1,
    shard: tuple[int, int] | None = None,
    executor: str = "local",
    address: str | None = None,
    resources: Mapping[str, float | str] | None = None,
    checkpoint_every: int = 1000,
) -> RunSummary:
    """Computes the cells of a table that are not finished yet, and before them the sources that they need.

    Args:
        experiment: the table.
        preset: one of its presets.
        seeds: seeds instead of those of the preset.
        rows: labels of the rows to compute instead of those of the preset.
        columns: labels of the columns, likewise.
        overrides: settings for every cell (see :meth:`Experiment.cells`).
        out: folder of the results; several processes may share it.
        jobs: cells computed at a time, each in a process of its own. Not with Ray, which goes by ``resources``.
        shard: ``(i, n)`` computes only part ``i`` of ``n``, counted from 0.
        executor: ``"local"`` or ``"ray"``. The results do not depend on it.
        address: address of the Ray cluster; None lets Ray find one, or start one on this machine.
        resources: what a cell takes of the Ray cluster, by name: ``num_cpus`` (default: its threads), ``num_gpus``
            (default: one on ``cuda``; with 0.25, four cells share a GPU), ``memory`` in bytes, ``accelerator_type``
            such as ``"A100"``, or a custom resource. Default: None, as said.
        checkpoint_every: iterations between two checkpoints inside an experience.

    Returns:
        What became of each cell, and of the sources that were missing. A failed cell does not stop the others (but
        for those it is a source of, which fail too); running again retries it.

    Raises:
        ValueError, TypeError: for a bad argument, or a device, stream, model or strategy that cannot be as it is set,
            before anything is computed.
        FileNotFoundError: if a data set or the weights that a network starts from are missing.
        ImportError: if Ray is asked for and not installed.
        ConnectionError: if there is no Ray cluster at the address.
    """
    for name, value in (("jobs", jobs), ("checkpoint_every", checkpoint_every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if executor not in _EXECUTORS:
        raise ValueError(unknown_name("executor", executor, _EXECUTORS))
    for name, given in (("address", address), ("resources", resources)):
        if given and executor != "ray":
            raise ValueError(f"{name} is for Ray, got {given!r} with executor {executor!r}; add --executor ray")
    if executor == "ray":
        try:
            from . import cluster
        except ImportError as error:
            raise ImportError("the Ray executor needs the package ray: pip install 'clpack[ray]'") from error
        _check_resources(resources or {}, jobs)
    cells = experiment.cells(preset=preset, seeds=seeds, rows=rows, columns=columns, overrides=overrides)
    mine = {cell.key(): cell for cell in cells}
    if shard is not None:
        mine = {key: mine[key] for key in shard_of(list(mine), *shard)}

    store = ResultStore(out)
    finished = [key for key in mine if store.result(key) is not None]
    outcomes = [CellOutcome(key, mine[key].label(), "reused") for key in finished]
    pending = {key: cell for key, cell in mine.items() if key not in finished}
    sources = {source.key(): source for cell in pending.values() for source in cell.sources}
    pending = {key: source for key, source in sources.items() if store.result(key) is None} | pending
    if pending:
        _check_components(list(pending.values()), here=executor == "local")
    if rows or columns:  # what was chosen before stays in the report
        cells = _with_planned(experiment, cells, store, preset=preset, seeds=seeds, overrides=overrides)
    plan = _plan(experiment, cells, preset, overrides or {})
    store.save_plan(plan["name"], plan)

    work = functools.partial(attempt_cell, store=store, checkpoint_every=checkpoint_every)
    lost = functools.partial(_record_loss, store=store)

    def compute(cells: Sequence[RunConfig]) -> Generator[CellOutcome]:
        if executor == "ray":
            return cluster.on_ray(work, cells, store=store, lost=lost, resources=resources or {})
        if jobs > 1:
            return executors.in_processes(work, cells, jobs=jobs, lost=lost)
        return executors.in_this_process(work, cells)

    phases = [[cell for cell in pending.values() if bool(cell.sources) == late] for late in (False, True)]
    with contextlib.ExitStack() as stack:
        if pending and executor == "ray":
            stack.enter_context(cluster.ray_cluster(address))
        display = stack.enter_context(ProgressDisplay(store, list(pending)))
        for cells in filter(None, phases):
            with contextlib.closing(compute(cells)) as computed:  # an interrupt ends what is running
                for outcome in computed:
                    outcomes.append(outcome)
                    display.finished(outcome)
    return RunSummary(tuple(outcomes), plan["name"], store.root)


def attempt_cell(config: RunConfig, *, store: ResultStore, checkpoint_every: int, wait: bool = False) -> CellOutcome:
    """Computes one cell unless it is finished or in other hands; an error is recorded, not raised.

    Sources in other hands are waited for. What the run prints goes to ``console.txt`` in the folder of the cell.

    Args:
        config: the cell.
        store: the results.
        checkpoint_every: iterations between two checkpoints inside an experience.
        wait: whether to wait for a cell that is in other hands. Default: False.
    """
    started = time.monotonic()
    outcome = functools.partial(CellOutcome, config.key(), config.label())
    with store.claim(config.key(), wait=wait) as claimed:
        if not claimed:
            return outcome("busy")
        if store.result(config.key()) is not None:
            return outcome("reused")
        for source in config.sources:
            reason = _missing_source(source, store, checkpoint_every)
            if reason is not None:
                return _record_loss(config, reason, store=store)
        folder = store.start(config)
        store.set_progress(config, 0.0)
        try:
            with (
                (folder / "console.txt").open("a", encoding="utf-8", buffering=1) as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                from .cell import run_cell  # imports Avalanche, which takes seconds

                run_cell(config, store, checkpoint_every=checkpoint_every)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            store.fail(config, reason, traceback.format_exc())
            return outcome("failed", time.monotonic() - started, reason)
    return outcome("done", time.monotonic() - started)


def shard_of(keys: Sequence[str], index: int, n_shards: int) -> list[str]:
    """Returns part ``index`` (from 0) of ``n_shards``: every ``n_shards``-th key in sorted order.

    Raises:
        ValueError: if there is no such part.
    """
    if not 0 <= index < n_shards:
        raise ValueError(f"shard must be I/N with 0 <= I < N, got {index}/{n_shards}")
    return sorted(keys)[index::n_shards]


def _check_resources(resources: Mapping[str, float | str], jobs: int) -> None:
    if jobs > 1:
        raise ValueError(
            f"jobs is for the executor 'local', got {jobs} with 'ray', which runs as many cells as their resources "
            "allow; drop it, or let cells share GPUs with --resources num_gpus=0.25"
        )
    for name, value in resources.items():
        if name == "accelerator_type":
            if not isinstance(value, str):
                raise ValueError(f"the resource accelerator_type must be text such as A100, got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"the resource {name} must be a number that is not negative, got {value!r}")


def _check_components(cells: Sequence[RunConfig], *, here: bool) -> None:
    """Finds what would make cells fail one after the other: settings that cannot be, missing data or weights.

    Args:
        cells: the cells to compute.
        here: whether this machine computes them.
    """
    from .build import (  # imports Avalanche
        check_benchmark,
        check_device,
        check_model,
        check_strategy,
        check_weights,
        stream_info,
    )

    for cell in _distinct(cells, "device"):
        check_device(cell.device, here=here)
    for cell in _distinct(cells, "strategy", "train_epochs", "train_mb_size", "eval_mb_size", "sources"):
        check_strategy(cell)
    for cell in _distinct(cells, "stream", "seed", "sources"):
        check_benchmark(cell)
    for cell in _distinct(cells, "stream", "model"):
        check_model(cell)
    for cell in _distinct(cells, "stream"):
        for data_set in stream_info(cell).data_sets:
            if data_set != "genimage":  # not in one form only; the stream finds out
                check_files(data_set, cell.stream.options.get("dataset_root"))
    for cell in _distinct(cells, "model"):
        check_weights(cell)


def _distinct(cells: Sequence[RunConfig], *names: str) -> list[RunConfig]:
    """Returns one cell for each combination of the settings called ``names``, options of components included."""
    chosen: dict[str, RunConfig] = {}
    for cell in cells:
        settings = {key: value for key, value in cell.settings().items() if key.partition(".")[0] in names}
        chosen.setdefault(json.dumps(settings, sort_keys=True), cell)
    return list(chosen.values())


def _missing_source(source: RunConfig, store: ResultStore, checkpoint_every: int) -> str | None:
    """Returns why a cell that needs this source cannot be computed; None if it can."""
    with store.claim(source.key(), wait=True):
        settled = store.result(source.key()) is not None or store.error(source.key()) is not None
    if not settled:  # the process that had it in hand is gone
        attempt_cell(source, store=store, checkpoint_every=checkpoint_every, wait=True)
    if store.result(source.key()) is not None:
        return None
    return f"its source failed: {source.label()}, cell {source.key()}: {store.error(source.key())}"


def _record_loss(config: RunConfig, reason: str, *, store: ResultStore) -> CellOutcome:
    store.fail(config, reason)
    return CellOutcome(config.key(), config.label(), "failed", reason=reason)


def _with_planned(
    experiment: Experiment, cells: Sequence[RunConfig], store: ResultStore, *, preset: str, **options: Any
) -> list[RunConfig]:
    """Returns some cells of a table, and those in the places of its stored plan, in the order of the table."""
    name = _plan_name(experiment, preset)
    places = {(cell.row, cell.column) for cell in cells}
    places |= {
        (cell["row"], cell["column"]) for plan in store.plans() if plan["name"] == name for cell in plan["cells"]
    }
    rows = [label for row in experiment.rows for label, _ in row.points()]
    columns = [column.label for column in experiment.columns]
    every = experiment.cells(preset=preset, rows=rows, columns=columns, **options)
    return [cell for cell in every if (cell.row, cell.column) in places]


def _plan_name(experiment: Experiment, preset: str) -> str:
    return experiment.name if preset == "paper" else f"{experiment.name}.{preset}"


def _plan(
    experiment: Experiment, cells: Sequence[RunConfig], preset: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the content of the file that tells the report which cell belongs where."""
    columns = {cell.column for cell in cells}
    return {
        "name": _plan_name(experiment, preset),
        "title": experiment.title,
        "paper": experiment.paper,
        "preset": preset,
        "overrides": dict(overrides),
        "metrics": list(experiment.metrics),
        "upper_bounds": [label for row in experiment.rows if row.upper_bound for label, _ in row.points()],
        "references": [vars(reference) for reference in experiment.references if reference.column in columns],
        "x_label": experiment.x_label,
        "x": {column.label: column.x for column in experiment.columns if column.x is not None},
        "cells": [
            {"row": cell.row, "column": cell.column, "key": cell.key(), "settings": cell.settings()} for cell in cells
        ],
    }
