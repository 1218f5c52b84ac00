"""Every code block of the documents runs, and every table in them is the one that their results give."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_code_blocks_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for language, block in BLOCK.findall(document.read_text()):
        assert language in ("python", "sh"), f"a block of {document.name} says no language that can be run"
        if language == "python":
            exec(compile(block, str(document), "exec"), namespace)
        else:
            for line in block.splitlines():
                run_command(line)


def run_command(line):
    from clpack.experiments.cli import main

    program, *arguments = shlex.split(line)
    if program == "make":  # would set up an environment and run these tests: only its recipe is looked up
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    else:
        assert program == "clpack", f"no document may ask for {program}"
        assert main(arguments) == 0


def test_the_demo_that_make_runs(tmp_path, capsys):
    from clpack.experiments.cli import main

    assert main(["demo", "--smoke", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| TAG + replay |" in printed
    assert str(tmp_path / "report.html") in printed
    assert (tmp_path / "report.html").exists()
    assert list(tmp_path.glob("cells/*/tb/events*"))


def test_the_ledger_is_that_of_the_results(tmp_path):
    from clpack.experiments.ledger import write_ledger

    write_ledger(ROOT / "docs" / "results", tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{page}.md" for page in ("ccsi", "condensation", "epochloss", "pruning", "tag"))]
)
def test_tables_are_those_of_the_results(name, tmp_path):
    from clpack.experiments.report import write_into

    document, copy = ROOT / name, tmp_path / "copy.md"
    shutil.copy(document, copy)
    write_into(ROOT / "docs" / "results", copy)
    assert copy.read_text() == document.read_text()


def test_scores_are_those_of_the_registry():
    from clpack.pruning import SCORES

    text = (ROOT / "docs" / "scores.md").read_text()
    rows = [
        f"| `{name}` | `{score.function.__name__}` | {', '.join(f'`{part}`' for part in score.requires)} "
        f"| {score.remove} | {score.aggregate} |"
        for name, score in SCORES.items()
    ]
    assert "|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n" in text
    assert re.findall(r"^## .*: `(\w+)`$", text, re.MULTILINE) == list(SCORES)
