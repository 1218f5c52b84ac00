"""Benchmarks from which samples were removed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clpack.benchmarks import SplitDigits, pruned_benchmark


def test_keeps_the_rows_and_everything_else():
    whole = SplitDigits(5, return_task_id=True, seed=1)
    pruned = pruned_benchmark(whole, {1: np.array([5, 0, 7]), 3: [2, 9]})
    for index, (before, after) in enumerate(zip(whole.train_stream, pruned.train_stream, strict=True)):
        rows = {1: [0, 5, 7], 3: [2, 9]}.get(index, range(len(before.dataset)))
        assert len(after.dataset) == len(rows)
        for row, place in zip(list(rows)[:3], range(3), strict=False):
            assert torch.equal(before.dataset[row][0], after.dataset[place][0])
            assert before.dataset[row][1:] == after.dataset[place][1:]
        assert before.task_labels == after.task_labels
        assert set(after.classes_in_this_experience) == {int(after.dataset.targets[k]) for k in range(len(rows))}
    for before, after in zip(whole.test_stream, pruned.test_stream, strict=True):
        assert list(before.dataset.targets) == list(after.dataset.targets)
        assert before.task_label == after.task_label
    assert len(whole.train_stream[1].dataset) > 3


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({7: [0]}, "experiences 0 to 4"),
        ({0: []}, "at least one row"),
        ({0: [0, 0]}, "each at most once"),
        ({0: [10_000]}, "from 0 to"),
        ({0: [0.5]}, "integer row numbers"),
    ],
)
def test_bad_rows(kept, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pruned_benchmark(SplitDigits(5, seed=1), kept)
