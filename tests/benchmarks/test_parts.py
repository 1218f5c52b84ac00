"""Benchmarks of a part of the samples."""

from __future__ import annotations

import pytest
import torch

from clpack.benchmarks import SplitDigits
from clpack.benchmarks.parts import held_out_benchmark, thinned_benchmark


def targets(experience):
    return torch.tensor(list(experience.dataset.targets))


def test_a_part_of_the_training_samples_is_held_out():
    whole = SplitDigits(5, return_task_id=True, seed=1)
    part, again = held_out_benchmark(whole, 0.2), held_out_benchmark(whole, 0.2)
    assert part.data_description == "tested on 20 % of the training samples, which are not trained on"
    for before, train, test, same in zip(
        whole.train_stream, part.train_stream, part.test_stream, again.test_stream, strict=True
    ):
        assert torch.equal(targets(test).bincount(), (targets(before).bincount() * 0.2).round().long())
        images = [{tuple(each.flatten().tolist()) for each, *_ in one.dataset} for one in (before, train, test, same)]
        assert images[1] | images[2] == images[0]
        assert not images[1] & images[2]
        assert images[3] == images[2]
        assert train.task_labels == test.task_labels == before.task_labels


def test_every_stream_is_thinned():
    whole = SplitDigits(5, return_task_id=True, seed=1)
    thin = thinned_benchmark(held_out_benchmark(whole, 0.5), 20)
    assert thin.data_description.endswith("not trained on, at most 20 samples of each class")
    for before, train, test in zip(whole.train_stream, thin.train_stream, thin.test_stream, strict=True):
        for part in (train, test):
            counts = targets(part).bincount()
            assert counts[counts > 0].tolist() == [20, 20]
            assert part.task_labels == before.task_labels
    first = thinned_benchmark(whole, 1).test_stream[2].dataset
    labels = targets(whole.test_stream[2])
    for image, label, *_ in first:
        assert torch.equal(image, whole.test_stream[2].dataset[int((labels == label).nonzero()[0])][0])
    everything = thinned_benchmark(whole, 10_000)
    assert [len(part.dataset) for part in everything.train_stream] == [len(part.dataset) for part in whole.train_stream]


@pytest.mark.parametrize(
    ("fraction", "message"),
    [(1.0, "at least 0 and less than 1"), (0.0, "holds out no image"), ("a", "must be a number")],
)
def test_bad_fraction(fraction, message):
    with pytest.raises((TypeError, ValueError), match=message):
        held_out_benchmark(SplitDigits(5, seed=1), fraction)


def test_bad_count():
    with pytest.raises(ValueError, match="samples_per_class must be at least 1, got 0"):
        thinned_benchmark(SplitDigits(5, seed=1), 0)
