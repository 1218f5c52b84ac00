"""Tables from results: Markdown, CSV and one HTML page, made from the files of a result folder alone."""

from __future__ import annotations

import csv
import functools
import io
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clpack.files import write_text
from clpack.names import unknown_name

from .config import Reference
from .metrics import METRICS
from .store import ResultStore

__all__ = [
    "Cell",
    "Entry",
    "ReportPaths",
    "Table",
    "experience_table",
    "load_tables",
    "markdown",
    "metric_title",
    "print_tables",
    "report",
    "write_into",
]

_GALLERIES = ("pruning", "condensed", "impressions")  # folders of a cell with pictures of its images
_PLACE = re.compile(r"(?P<begin><!-- table: (?P<name>\S+) -->)\n.*?(?P<end><!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True)
class Cell:
    """A cell of a table and what is known about it.

    Attributes:
        row: label of its row.
        column: label of its column.
        key: its identity.
        settings: its settings (see :meth:`RunConfig.settings`).
        content: its ``result.json``; None if it is not finished.
        error: why its last attempt failed; None if it did not.
        source_seconds: what the runs that its scores come from took together; None if there are none, or one of them
            is not finished.
        galleries: pictures of its samples, relative to the result folder.
    """

    row: str
    column: str
    key: str
    settings: dict[str, Any]
    content: dict[str, Any] | None
    error: str | None
    source_seconds: float | None
    galleries: tuple[str, ...]

    @property
    def status(self) -> str:
        """``"finished"``, ``"failed"`` or ``"missing"``."""
        if self.content is not None:
            return "finished"
        return "missing" if self.error is None else "failed"


@dataclass(frozen=True)
class Entry:
    """One metric of the cells in one row and one column of a table, in the unit of the metric.

    Attributes:
        row: label of the row.
        column: label of the column.
        metric: a name in :data:`METRICS`.
        values: one value per finished cell in which the metric is defined.
        n_finished: number of finished cells.
        n_seeds: number of cells.
        n_failed: number of failed cells.
        reference: the value to compare with, if there is one.
    """

    row: str
    column: str
    metric: str
    values: tuple[float, ...]
    n_finished: int
    n_seeds: int
    n_failed: int
    reference: Reference | None

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None without values."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Population standard deviation over the seeds; None without values."""
        return statistics.pstdev(self.values) if self.values else None

    @property
    def difference(self) -> float | None:
        """How many standard deviations of the reference our mean lies above it."""
        if self.mean is None or self.reference is None or not self.reference.std:
            return None
        return (self.mean - self.reference.mean) / self.reference.std

    def __str__(self) -> str:
        """Mean ± standard deviation, and what is missing of the seeds; empty for a row that is not for the column."""
        if not self.n_seeds:
            return ""
        if not self.n_finished:
            return "failed" if self.n_failed else "missing"
        text = _plus_minus(self.metric, self.mean, self.std if self.n_seeds > 1 else None)
        return text if self.n_finished == self.n_seeds else f"{text} ({self.n_finished} of {self.n_seeds} seeds)"

    def printed_reference(self) -> str:
        """The reference value, printed like ours; empty without one."""
        return _plus_minus(self.metric, self.reference.mean, self.reference.std) if self.reference else ""

    def printed_difference(self) -> str:
        """The difference with its sign; empty without one."""
        return "" if self.difference is None else f"{self.difference:+.1f}"


@dataclass(frozen=True)
class Table:
    """A table with what is known about its cells.

    Attributes:
        plan: the plan that the run of the table wrote.
        cells: its cells, in the order of the plan.
    """

    plan: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def rows(self) -> list[str]:
        """Labels of the rows in their order."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        """Labels of the columns in their order."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted({cell.settings["seed"] for cell in self.cells})

    @property
    def curves(self) -> dict[str, list[str]]:
        """Labels of the columns that have an ``x``, in its order, by the name of their stream."""
        x = self.plan.get("x", {})
        curves: dict[str, list[str]] = {}
        for column in sorted((column for column in self.columns if column in x), key=x.__getitem__):
            stream = next(cell.settings["stream"] for cell in self.cells if cell.column == column)
            curves.setdefault(stream, []).append(column)
        return curves

    def is_constant(self, row: str, columns: Sequence[str]) -> bool:
        """Returns whether the cells of a row are the same in all these columns."""
        return len({tuple(cell.key for cell in self.at(row, column)) for column in columns}) == 1

    def at(self, row: str, column: str) -> list[Cell]:
        """Returns the cells of one row and one column, one per seed."""
        return [cell for cell in self.cells if (cell.row, cell.column) == (row, column)]

    def entry(self, row: str, column: str, metric: str) -> Entry:
        """Returns the entry of one row, column and metric."""
        cells = self.at(row, column)
        stored = [cell.content["result"]["metrics"].get(metric) for cell in cells if cell.content is not None]
        references = [
            Reference(**reference)
            for reference in self.plan["references"]
            if (reference["row"], reference["column"], reference["metric"]) == (row, column, metric)
        ]
        return Entry(
            row,
            column,
            metric,
            values=tuple(METRICS[metric].scale * value for value in stored if value is not None),
            n_finished=len(stored),
            n_seeds=len(cells),
            n_failed=sum(cell.status == "failed" for cell in cells),
            reference=references[0] if references else None,
        )

    def by_experience(self, row: str, column: str, metric: str) -> list[Entry]:
        """Returns an entry for each experience that has a reference of its own."""
        entry = self.entry(row, column, metric)
        if entry.reference is None:
            return []
        matrix = f"{metric.removesuffix('learning_accuracy')}accuracy_matrix"
        results = [cell.content["result"].get(matrix, []) for cell in self.at(row, column) if cell.content is not None]
        return [
            replace(
                entry,
                values=tuple(METRICS[metric].scale * rows[index][index] for rows in results if index < len(rows)),
                reference=Reference(row, column, metric, mean, std),
            )
            for index, (mean, std) in enumerate(entry.reference.by_experience)
        ]

    def entries(self) -> list[Entry]:
        """Returns all entries that have cells: metric by metric, row by row."""
        return [
            self.entry(row, column, metric)
            for metric in self.plan["metrics"]
            for row in self.rows
            for column in self.columns
            if self.at(row, column)
        ]

    def best(self, column: str, metric: str) -> str | None:
        """Returns the best printed value of a column, upper bounds aside; None if there is none to compare."""
        if METRICS[metric].higher_is_better is None:
            return None
        entries = [self.entry(row, column, metric) for row in self.rows if row not in self.plan["upper_bounds"]]
        means = [entry.mean for entry in entries if entry.mean is not None]
        if len(means) < 2:
            return None
        best = max(means) if METRICS[metric].higher_is_better else min(means)
        return _number(metric, best)

    def is_best(self, entry: Entry) -> bool:
        """Returns whether an entry is the best of its column, ties in print included."""
        if entry.mean is None or entry.row in self.plan["upper_bounds"]:
            return False
        return _number(entry.metric, entry.mean) == self.best(entry.column, entry.metric)

    def has_references(self, column: str, metric: str) -> bool:
        """Returns whether there are reference values for a metric in a column."""
        return any(self.entry(row, column, metric).reference for row in self.rows)

    @property
    def metrics(self) -> list[str]:
        """The metrics that have a value in some row, or may still get one; all if none has."""
        metrics: list[str] = self.plan["metrics"]
        return [metric for metric in metrics if self._rows_with(metric)] or metrics

    def rows_with(self, metric: str) -> list[str]:
        """Returns the rows in which a metric has a value, or may still get one; all if none has."""
        return self._rows_with(metric) or self.rows

    def _rows_with(self, metric: str) -> list[str]:
        def may_have(row: str) -> bool:
            entries = [self.entry(row, column, metric) for column in self.columns]
            return any(entry.values or entry.n_finished < entry.n_seeds for entry in entries)

        return [row for row in self.rows if may_have(row)]

    def notes(self) -> list[str]:
        """Returns what a reader has to know about the numbers, one sentence or two per note."""
        seeds = ", ".join(map(str, self.seeds))
        spread = "Mean ± population standard deviation over" if len(self.seeds) > 1 else "One run each,"
        bounds = [row for row in self.plan["upper_bounds"] if row in self.rows]
        aside = f" ({', '.join(bounds)} aside)" if bounds else ""
        notes = [f"{spread} seed{'s' if len(self.seeds) > 1 else ''} {seeds}. Best of each column in bold{aside}."]
        if self.plan["references"]:
            sources = sorted({reference["source"] for reference in self.plan["references"] if reference["source"]})
            where = f" ({'; '.join(sources)})" if sources else ""
            notes.append(f"Reference values{where}; difference in standard deviations of the reference.")
        data = {cell.content["result"]["data"].get("description") for cell in self.cells if cell.content is not None}
        if data - {None}:
            notes.append(f"Data: {'; '.join(sorted(data - {None}))}.")
        return [*notes, *self.reservations()]

    def reservations(self) -> list[str]:
        """Returns what keeps the numbers from being those of the full protocol, one sentence per note."""
        finished = sum(cell.status == "finished" for cell in self.cells)
        notes = []
        if self.plan["preset"] != "paper":
            notes.append(f"Preset {self.plan['preset']!r}, not the full protocol.")
        if self.plan["overrides"]:
            changes = ", ".join(f"{key}={value}" for key, value in self.plan["overrides"].items())
            notes.append(f"Settings changed for this run: {changes}.")
        if finished < len(self.cells):
            notes.append(f"Incomplete: {finished} of {len(self.cells)} cells are finished.")
        return notes


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report.

    Attributes:
        html: the page.
        markdown: the tables.
        entries: CSV, one line per table entry.
        cells: CSV, one line per cell.
        pictures: SVG, one file for each picture of the page.
    """

    html: Path
    markdown: Path
    entries: Path
    cells: Path
    pictures: tuple[Path, ...]


def report(directory: str | os.PathLike[str]) -> ReportPaths:
    """Writes the reports of a result folder into it.

    They are ``report.html``, ``report.md``, ``entries.csv``, ``cells.csv``, and the pictures in ``figures/``.

    Args:
        directory: the folder given to the runs as ``out``.

    Returns:
        The paths of the files.

    Raises:
        FileNotFoundError: if no table was run into the folder.
    """
    from .figures import pictures_of  # matplotlib takes a second
    from .page import render_page

    tables = load_tables(directory)
    root = Path(directory).resolve()
    groups = [pictures_of(table) for table in tables]
    files = {
        root / "figures" / f"{picture.name}.svg": picture.file
        for of_table in groups
        for group in of_table
        for picture in group.pictures
    }
    paths = ReportPaths(
        root / "report.html", root / "report.md", root / "entries.csv", root / "cells.csv", tuple(files)
    )
    write_text(paths.markdown, markdown(tables))
    write_text(paths.entries, _csv(_entry_record(table, entry) for table in tables for entry in table.entries()))
    write_text(paths.cells, _csv(_cell_record(table, cell) for table in tables for cell in table.cells))
    write_text(paths.html, render_page(tables, groups))
    for path, svg in files.items():
        write_text(path, svg)
    return paths


def load_tables(directory: str | os.PathLike[str]) -> list[Table]:
    """Reads the tables of a result folder.

    Raises:
        FileNotFoundError: if no table was run into the folder.
    """
    store = ResultStore(directory)
    plans = store.plans()
    if not plans:
        raise FileNotFoundError(
            f"no results in {store.root}: it has no tables/*.json; expected a folder that `clpack run --out` wrote"
        )

    @functools.cache
    def seconds(key: str) -> float | None:
        content = store.result(key)
        return None if content is None else float(content["environment"]["seconds"])

    def load(cell: dict[str, Any]) -> Cell:
        key, sources = cell["key"], [seconds(source) for source in cell["settings"].get("sources", ())]
        known = [each for each in sources if each is not None]
        galleries = sorted(path for name in _GALLERIES for path in (store.folder(key) / name).glob("*.png"))
        return Cell(
            **cell,
            content=store.result(key),
            error=store.error(key),
            source_seconds=sum(known) if sources and len(known) == len(sources) else None,
            galleries=tuple(path.relative_to(store.root).as_posix() for path in galleries),
        )

    return [Table(plan, tuple(load(cell) for cell in plan["cells"])) for plan in plans]


def write_into(directory: str | os.PathLike[str], document: str | os.PathLike[str]) -> None:
    """Writes tables of a result folder into a Markdown document, so that no number in it is typed.

    The document marks each place with ``<!-- table: NAME -->`` and ``<!-- end of table -->``, where ``NAME`` is that
    of the table's plan, such as ``tag/digits``; what stands between the marks is replaced.

    Args:
        directory: the folder given to the runs as ``out``.
        document: the Markdown file.

    Raises:
        FileNotFoundError: if no table was run into the folder, or there is no such document.
        ValueError: if the document has no such place, or names a table that is not in the folder.
    """
    tables = {table.plan["name"]: table for table in load_tables(directory)}

    def fill(place: re.Match[str]) -> str:
        if place["name"] not in tables:
            raise ValueError(unknown_name("table", place["name"], tables))
        return f"{place['begin']}\n{_markdown_body(tables[place['name']], '###')}\n{place['end']}"

    text, count = _PLACE.subn(fill, Path(document).read_text(encoding="utf-8"))
    if not count:
        raise ValueError(
            f"{document} has no place for a table; mark one with <!-- table: {next(iter(tables))} --> and "
            "<!-- end of table --> on lines of their own"
        )
    write_text(document, text)


def print_tables(directory: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Prints tables of a result folder on the standard output, drawn in a terminal and as Markdown elsewhere.

    Args:
        directory: the folder given to the runs as ``out``.
        names: which tables, by the name in their plan.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    text = markdown([table for table in load_tables(directory) if table.plan["name"] in names])
    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        print(text)


def metric_title(metric: str) -> str:
    """Returns the title of a metric: name, unit, and which way is better, if one is."""
    kind = METRICS[metric]
    better = {None: "", True: ", higher is better", False: ", lower is better"}[kind.higher_is_better]
    return f"{kind.label} ({kind.unit}{better})"


def experience_table(table: Table, column: str, metric: str) -> list[list[str]]:
    """Returns head and lines of a table of single experiences with their references; empty without any."""
    found = [(row, table.by_experience(row, column, metric)) for row in table.rows_with(metric)]
    lines = [
        line
        for row, entries in found
        if entries
        for line in (
            [row, "ours", *map(str, entries)],
            ["", "reference", *(entry.printed_reference() for entry in entries)],
        )
    ]
    if not lines:
        return []
    return [[f"{column}, by experience", "", *map(str, range(max(len(entries) for _, entries in found)))], *lines]


def markdown(tables: Sequence[Table]) -> str:
    """Returns the tables as Markdown, one per metric."""
    return "\n".join(
        f"# {table.plan['title']}\n\n{table.plan['paper']}\n\n{_markdown_body(table, '##')}" for table in tables
    )


def _markdown_body(table: Table, heading: str) -> str:
    lines: list[str] = []
    for metric in table.metrics:
        lines += [f"{heading} {metric_title(metric)}", "", *_markdown_table(table, metric), ""]
        for column in table.columns:
            if rows := experience_table(table, column, metric):
                lines += [*_markdown_lines([rows[0], ["---", "---", *["---:"] * (len(rows[0]) - 2)], *rows[1:]]), ""]
    lines += [*(f"- {note}" for note in table.notes()), ""]
    failures = [
        f"- {cell.row} on {cell.column}, seed {cell.settings['seed']}: {cell.error}"
        for cell in table.cells
        if cell.status == "failed"
    ]
    if failures:
        lines += ["Failed cells:", "", *failures, ""]
    return "\n".join(lines)


def _markdown_table(table: Table, metric: str) -> list[str]:
    head, rule = ["Method"], ["---"]
    for column in table.columns:
        extra = ["reference", "difference"] if table.has_references(column, metric) else []
        head += [column, *extra]
        rule += ["---:"] * (1 + len(extra))
    lines = [head, rule]
    for row in table.rows_with(metric):
        line = [row]
        for column in table.columns:
            entry = table.entry(row, column, metric)
            line.append(f"**{entry}**" if table.is_best(entry) else str(entry))
            if table.has_references(column, metric):
                line += [entry.printed_reference(), entry.printed_difference()]
        lines.append(line)
    return _markdown_lines(lines)


def _markdown_lines(lines: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]


def _number(metric: str, value: float) -> str:
    return f"{value:.{METRICS[metric].decimals}f}"


def _plus_minus(metric: str, mean: float | None, std: float | None) -> str:
    if mean is None:
        return "undefined"
    if std is None or (std == 0 and METRICS[metric].higher_is_better is None):  # a fact, not a result
        return _number(metric, mean)
    return f"{_number(metric, mean)} ± {_number(metric, std)}"


def _entry_record(table: Table, entry: Entry) -> dict[str, Any]:
    reference = entry.reference
    return {
        "table": table.plan["name"],
        "row": entry.row,
        "column": entry.column,
        "metric": entry.metric,
        "unit": METRICS[entry.metric].unit,
        "mean": entry.mean,
        "std": entry.std,
        "n_finished": entry.n_finished,
        "n_seeds": entry.n_seeds,
        "reference_mean": reference and reference.mean,
        "reference_std": reference and reference.std,
        "difference": entry.difference,
        "source": reference and reference.source,
    }


def _cell_record(table: Table, cell: Cell) -> dict[str, Any]:
    metrics = cell.content["result"]["metrics"] if cell.content else {}
    environment = cell.content["environment"] if cell.content else {}
    return {
        "table": table.plan["name"],
        "row": cell.row,
        "column": cell.column,
        "seed": cell.settings["seed"],
        "key": cell.key,
        "status": cell.status,
        **{name: metrics.get(name) for name in METRICS},
        "seconds": environment.get("seconds"),
        "source_seconds": cell.source_seconds,
        "finished_at": environment.get("finished_at"),
        "error": cell.error,
    }


def _csv(records: Iterable[dict[str, Any]]) -> str:
    """Returns records of equal fields as CSV; None is an empty field."""
    records = list(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
