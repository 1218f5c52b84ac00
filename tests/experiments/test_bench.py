"""The benches run and print their ratios; how large these are is for people to read, not for a test."""

from __future__ import annotations

import re

from clpack.experiments.bench import adversarial, ccsi, condensation, genimage, loader, pruning, tag


def test_tag_bench_prints_ratios(capsys):
    tag.main(tasks=2, repeats=10)
    printed = capsys.readouterr().out
    assert re.search(r"clpack TAG\s*│\s*[\d.]+\s*│\s*[\d.]+", printed)
    assert "= 6 per parameter" in printed


def test_loader_bench_measures_all_cases():
    rows = loader.measure(num_samples=512, epochs=2)
    assert {row["batch_size"] for row in rows} == {10, 128}
    assert all(row["ratio"] > 0 for row in rows)


def test_genimage_bench_measures_both():
    figures = genimage.measure(rounds=1, num_images=40)
    assert figures["ours"] / figures["bare"] == figures["ratio"] > 0


def test_adversarial_bench_measures_both():
    figures = adversarial.measure(32, steps=1, rounds=1, batch_size=16)
    assert figures["attacked"] / (2 * figures["clean"]) == figures["ratio"] > 0


def test_pruning_bench_measures_all_cases():
    rows = pruning.measure(512, 8, epoch_samples=128, epochs=2, memory_samples=1 << 16, memory_presentations=90)
    assert [row["unit"] for row in rows] == ["ms", "ms", "ms", "MiB"]
    assert all(row["ratio"] > 0 for row in rows)
    assert rows[-1]["ratio"] <= 1.1  # no time, but bytes: scores are computed in blocks


def test_ccsi_bench_compares_equal_gradients_and_both_starts():
    figures = ccsi.speed(num_images=4, rounds=1)
    assert figures["difference_double"] < 1e-9
    assert figures["plain"] / figures["fused"] == figures["ratio"] > 0
    found = ccsi.digits(num_train=100, epochs=1, num_images=4, iterations=2)
    assert {"mean_teacher", "mean_other", "noise_teacher", "noise_other"} < found.keys()
    assert all(0 <= value <= 1 for value in found.values())


def test_condensation_bench_compares_equal_gradients():
    for measure in (condensation.speed, condensation.gradient_matching):
        figures = measure(batch_real=20, width=4, rounds=1)
        assert figures["difference"] < 1e-5
        assert figures["ours"] / figures["plain"] == figures["ratio"] > 0
    peak = condensation.memory(batch_real=20, width=4)
    assert peak is None or peak > 0
