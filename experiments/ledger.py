"""The ledger: every number of a result folder beside its reference, with what it takes to get it again."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Sequence

from clpack.files import write_text

from . import tables as registry
from .metrics import METRICS
from .report import Cell, Entry, Table, load_tables

__all__ = ["ledger", "write_ledger"]

_HEAD = """# Results

Every number that the committed [results](results) hold, beside its reference where there is one. This page is written
by `clpack report docs/results --ledger docs/results.md`, every number from the result files. Differences are in
standard deviations of the reference. Seconds are the mean of a cell, with the runs that it builds on aside; the
configuration is the hash of the settings of all cells of an entry.
"""


def write_ledger(directory: str | os.PathLike[str], document: str | os.PathLike[str]) -> None:
    """Writes the ledger of a result folder, atomically.

    Args:
        directory: the folder given to the runs as ``out``.
        document: the Markdown file.

    Raises:
        FileNotFoundError: if no table was run into the folder.
    """
    write_text(document, ledger(load_tables(directory)))


def ledger(tables: Sequence[Table]) -> str:
    """Returns the ledger as Markdown: for each table a command, the hardware, and a line for each entry.

    A table is there if one of its cells is finished, an entry if it is of the first metric of its table, or has a
    reference.
    """
    started = [table for table in tables if any(cell.content is not None for cell in table.cells)]
    return "\n".join([_HEAD, *map(_section, sorted(started, key=lambda table: str(table.plan["name"])))])


def _section(table: Table) -> str:
    finished = [cell for cell in table.cells if cell.content is not None]
    entries = [entry for entry in table.entries() if entry.values and _listed(table, entry)]
    sources = [entry.reference.source for entry in entries if entry.reference and entry.reference.source]
    lines = [
        f"## {table.plan['title']}",
        "",
        f"`{_command(table)}`; {table.plan['paper']}.",
        "",
        f"- Hardware: {_joined(_hardware(cell) for cell in finished)}.",
        f"- Versions: {_joined(_versions(cell) for cell in finished)}.",
        f"- Data: {_joined(_data(cell) for cell in finished)}.",
        *([f"- Reference: {_joined(sources)}."] if sources else []),
        *(f"- {reservation}" for reservation in table.reservations()),
        "",
        "| method | column | metric | ours | seeds | reference | difference | seconds | configuration |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *(_line(table, entry) for entry in entries),
        "",
    ]
    return "\n".join(lines)


def _command(table: Table) -> str:
    """Returns the command line that computes the table."""
    preset = table.plan["preset"]
    name = table.plan["name"].removesuffix(f".{preset}")
    if name.startswith("demo"):
        return "clpack demo --smoke" if preset == "smoke" else "clpack demo"
    words = ["clpack", "run", name]
    if preset != "paper":
        words += ["--preset", preset]
    words += _chosen(table, name, preset)
    for key, value in table.plan["overrides"].items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)


def _chosen(table: Table, name: str, preset: str) -> list[str]:
    """Returns the options for those seeds, rows and columns of a table that are not the ones of its preset."""
    try:
        full = registry.get(name).cells(preset=preset)
    except ValueError:  # no such table or preset here, so nothing to compare with
        return []
    words = []
    if table.seeds != sorted({cell.seed for cell in full}):
        words += ["--seeds", ",".join(map(str, table.seeds))]
    if table.columns != list(dict.fromkeys(cell.column for cell in full)):
        words += ["--columns", *table.columns]
    if table.rows != list(dict.fromkeys(cell.row for cell in full if cell.column in table.columns)):
        words += ["--rows", *table.rows]
    return words


def _listed(table: Table, entry: Entry) -> bool:
    return entry.metric == table.metrics[0] or entry.reference is not None


def _line(table: Table, entry: Entry) -> str:
    cells = [cell for cell in table.at(entry.row, entry.column) if cell.content is not None]
    seconds = sum(cell.content["environment"]["seconds"] for cell in cells if cell.content) / len(cells)
    configuration = hashlib.sha256("".join(sorted(cell.key for cell in cells)).encode()).hexdigest()[:12]
    kind = METRICS[entry.metric]
    fields = [
        entry.row,
        entry.column,
        f"{kind.label} ({kind.unit})",
        str(entry),
        str(len(entry.values)),
        entry.printed_reference(),
        entry.printed_difference(),
        f"{seconds:.0f}",
        f"`{configuration}`",
    ]
    return "| " + " | ".join(field.replace("|", "\\|") for field in fields) + " |"


def _hardware(cell: Cell) -> str:
    assert cell.content is not None
    environment = cell.content["environment"]
    threads = environment["num_threads"]
    return f"{environment['device']}, {threads} thread{'s' if threads > 1 else ''}"


def _versions(cell: Cell) -> str:
    assert cell.content is not None
    versions = cell.content["environment"]["versions"]
    return ", ".join(f"{name} {versions[name]}" for name in ("clpack", "torch", "avalanche", "python"))


def _data(cell: Cell) -> str:
    assert cell.content is not None
    data = cell.content["result"]["data"]
    described = data.get("description")
    stream = f"{cell.settings['stream']}, {sum(data['n_train'])} training and {sum(data['n_test'])} test samples"
    return stream if described is None else f"{stream} ({described})"


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts)))
