"""The benches run and print their ratios; how large these are is for people to read, not for a test."""

from __future__ import annotations

import re

from clpack.experiments.bench import loader, tag


def test_tag_bench_prints_ratios(capsys):
    tag.main(tasks=2, repeats=10)
    printed = capsys.readouterr().out
    assert re.search(r"clpack TAG\s*│\s*[\d.]+\s*│\s*[\d.]+", printed)
    assert "= 6 per parameter" in printed


def test_loader_bench_measures_all_cases():
    rows = loader.measure(num_samples=512, epochs=2)
    assert {row["batch_size"] for row in rows} == {10, 128}
    assert all(row["ratio"] > 0 for row in rows)
