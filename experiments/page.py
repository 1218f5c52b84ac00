"""The report as one HTML page that needs nothing beside itself: style and pictures are inside, galleries are linked."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import clpack

from .figures import PictureGroup
from .report import Cell, Table, experience_table, metric_title

__all__ = ["render_page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #656d76; --line: #d8dee4; --paper: #ffffff; --band: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #343b43; --paper: #14171a; --band: #1c2024; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; font-weight: 650; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; font-weight: 600; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; font-weight: 600; }
section + section { border-top: 1px solid var(--line); margin-top: 3.5rem; padding-top: 2.5rem; }
.soft { color: var(--soft); margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .9rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; font-size: .88rem; }
th.group { text-align: center; }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; }
tbody tr:hover { background: var(--band); }
td.soft, th.soft { color: var(--soft); font-weight: 400; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.absent { color: #b35900; } @media (prefers-color-scheme: dark) { .absent { color: #e8a25c; } }
ul.notes { color: var(--soft); font-size: .9rem; padding-left: 1.1rem; margin: .9rem 0; }
svg { max-width: 100%; height: auto; display: block; margin: .5rem 0; color: var(--ink); }
svg text { font-family: inherit; }
details { margin-top: 1rem; } summary { cursor: pointer; font-weight: 600; }
.small { font-size: .85rem; }
"""


def render_page(tables: Sequence[Table], pictures: Sequence[Sequence[PictureGroup]]) -> str:
    """Returns the page with a section per table, which shows the pictures of the table."""
    title = tables[0].plan["title"] if len(tables) == 1 else "Results"
    sections = "\n".join(
        f"<section>{_section(table, groups)}</section>" for table, groups in zip(tables, pictures, strict=True)
    )
    made = f"Made by clpack {clpack.__version__} on {datetime.date.today().isoformat()} from the stored results."
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{sections}\n"
        f'<p class="soft small" style="margin-top:3rem">{made}</p>\n</body>\n</html>\n'
    )


def _section(table: Table, groups: Sequence[PictureGroup]) -> str:
    parts = [
        f"<h1>{escape(table.plan['title'])}</h1>",
        f'<p class="soft">{escape(table.plan["paper"])}</p>',
        *(_metric_table(table, metric) for metric in table.metrics),
        _notes(table.notes()),
        _failures(table),
        *map(_pictures, groups),
        _galleries(table),
        _costs(table),
        _configuration(table),
        _environment(table),
    ]
    return "\n".join(part for part in parts if part)


def _metric_table(table: Table, metric: str) -> str:
    compared = {column: table.has_references(column, metric) for column in table.columns}
    head = "".join(
        f'<th class="group" colspan="3">{escape(column)}</th>' if compared[column] else f"<th>{escape(column)}</th>"
        for column in table.columns
    )
    second = "".join(
        '<th>ours</th><th class="soft">reference</th><th class="soft">difference</th>'
        if compared[column]
        else "<th></th>"
        for column in table.columns
    )
    body = ""
    for row in table.rows_with(metric):
        body += f"<tr><td>{escape(row)}</td>"
        for column in table.columns:
            entry = table.entry(row, column, metric)
            text = f"<strong>{entry}</strong>" if table.is_best(entry) else str(entry)
            absent = ' class="absent"' if entry.n_finished < entry.n_seeds else ""
            body += f"<td{absent}>{text}</td>"
            if compared[column]:
                comparison = (entry.printed_reference(), entry.printed_difference())
                body += "".join(f'<td class="soft">{value}</td>' for value in comparison)
        body += "</tr>\n"
    heads = f"<tr><th>Method</th>{head}</tr>"
    if any(compared.values()):
        heads += f"<tr><th></th>{second}</tr>"
    single = "".join(_experience_table(table, column, metric) for column in table.columns)
    return f"<h2>{metric_title(metric)}</h2>{_table(heads, body)}{single}"


def _experience_table(table: Table, column: str, metric: str) -> str:
    lines = [[escape(text) for text in line] for line in experience_table(table, column, metric)]
    if not lines:
        return ""
    heads = f"<tr><th>{'</th><th>'.join(lines[0])}</th></tr>"
    body = "".join(f"<tr><td>{'</td><td>'.join(line)}</td></tr>\n" for line in lines[1:])
    return f'<details class="small"><summary>{lines[0][0]}</summary>{_table(heads, body)}</details>'


def _notes(notes: Iterable[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>'


def _failures(table: Table) -> str:
    failed = [cell for cell in table.cells if cell.status == "failed"]
    if not failed:
        return ""
    body = "".join(
        f"<tr><td>{escape(cell.row)}</td><td>{escape(cell.column)}</td><td>{cell.settings['seed']}</td>"
        f'<td class="text absent">{escape(cell.error or "")}</td></tr>'
        for cell in failed
    )
    return "<h2>Failed cells</h2>" + _table("<tr><th>Method</th><th>Stream</th><th>Seed</th><th>Reason</th></tr>", body)


def _pictures(group: PictureGroup) -> str:
    blocks = [f"<h3>{escape(picture.head)}</h3>{picture.svg}" for picture in group.pictures]
    return f'<h2>{group.title}</h2><p class="soft">{group.caption}</p>{"".join(blocks)}'


def _galleries(table: Table) -> str:
    body = ""
    for cell in table.cells:
        links = ", ".join(
            f'<a href="{escape(path)}">experience {index}</a>' for index, path in enumerate(cell.galleries)
        )
        if links:
            names = f"<td>{escape(cell.row)}</td><td>{escape(cell.column)}</td><td>{cell.settings['seed']}</td>"
            body += f'<tr>{names}<td class="text">{links}</td></tr>\n'
    if not body:
        return ""
    heads = "<tr><th>Method</th><th>Stream</th><th>Seed</th><th>Removed first and last of each class</th></tr>"
    return f'<details class="small"><summary>Removed samples</summary>{_table(heads, body)}</details>'


def _costs(table: Table) -> str:
    scored = any(cell.source_seconds is not None for cell in table.cells)
    body = ""
    for row in table.rows:
        for column in table.columns:
            phases = [cell.content["environment"]["phases"] for cell in table.at(row, column) if cell.content]
            if phases:
                numbers = "".join(f"<td>{text}</td>" for text in _cost_numbers(phases))
                if scored:
                    seconds = [cell.source_seconds or 0.0 for cell in table.at(row, column)]
                    numbers += f"<td>{max(seconds):.1f}</td>"
                body += f"<tr><td>{escape(row)}</td><td>{escape(column)}</td>{numbers}</tr>\n"
    if not body:
        return ""
    heads = "".join(
        f"<th>{text}</th>"
        for text in (
            "Method",
            "Stream",
            "Training (s)",
            "Evaluation (s)",
            "Peak memory (MiB)",
            "State at the end (MiB)",
            *(["Scoring runs (s)"] if scored else []),
        )
    )
    caption = (
        "Seconds per run, largest peak of memory in any phase, size of model, optimizer and memory. Means over seeds."
    )
    if scored:
        caption += " Scoring runs: all runs that the scores of a row come from, together; rows and seeds share them."
    return f'<h2>Cost</h2><p class="soft">{caption}</p>{_table(f"<tr>{heads}</tr>", body)}'


def _cost_numbers(runs: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    def mean(numbers: Iterable[float]) -> float:
        return statistics.fmean(numbers)

    def seconds(run: Sequence[dict[str, Any]], phase: str) -> float:
        return sum((float(entry["seconds"]) for entry in run if entry["phase"] == phase), 0.0)

    return [
        f"{mean(seconds(run, 'train') for run in runs):.1f}",
        f"{mean(seconds(run, 'eval') for run in runs):.1f}",
        f"{mean(max(entry['peak_memory_bytes'] for entry in run) for run in runs) / 2**20:.0f}",
        f"{mean(_state_bytes(run) for run in runs) / 2**20:.2f}",
    ]


def _state_bytes(run: Sequence[dict[str, Any]]) -> int:
    """Bytes of model, optimizer and plugins after the last training phase."""
    return sum([entry["state_bytes"] for entry in run if entry["phase"] == "train"][-1].values())


def _configuration(table: Table) -> str:
    body = ""
    for row in table.rows:
        for column in table.columns:
            for cell in table.at(row, column)[:1]:  # none if the row is not for the column
                text = ", ".join(f"{key}={value}" for key, value in cell.settings.items() if key != "seed")
                names = f"<td>{escape(row)}</td><td>{escape(column)}</td>"
                body += f'<tr>{names}<td class="text">{escape(text)}</td></tr>\n'
    heads = "<tr><th>Method</th><th>Stream</th><th>Settings</th></tr>"
    return f'<details class="small"><summary>Configuration</summary>{_table(heads, body)}</details>'


def _environment(table: Table) -> str:
    finished = [cell for cell in table.cells if cell.content is not None]
    facts = {
        "Data (SHA-256)": _distinct(
            finished,
            lambda content: f"{content['result']['config']['stream']} {content['result']['data']['sha256'][:16]}",
        ),
        "Device": _distinct(finished, lambda content: content["environment"]["device"]),
        "Platform": _distinct(finished, lambda content: content["environment"]["platform"]),
        "Threads": _distinct(finished, lambda content: str(content["environment"]["num_threads"])),
        "Versions": _distinct(
            finished,
            lambda content: ", ".join(
                f"{name} {version}" for name, version in content["environment"]["versions"].items()
            ),
        ),
        "Finished": _distinct(finished, lambda content: content["environment"]["finished_at"][:10]),
    }
    body = "".join(f'<tr><td>{name}</td><td class="text">{escape(text)}</td></tr>' for name, text in facts.items())
    return f'<details class="small"><summary>Environment</summary>{_table("", body)}</details>' if finished else ""


def _distinct(cells: Sequence[Cell], read: Any) -> str:
    return "; ".join(sorted({read(cell.content) for cell in cells}))


def _table(heads: str, body: str) -> str:
    return f'<div class="wide"><table><thead>{heads}</thead><tbody>{body}</tbody></table></div>'
