"""SplitDigits and PermutedDigits: which images, labels and task labels each experience holds."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from sklearn.datasets import load_digits
from torch import Tensor

from clpack.benchmarks import PermutedDigits, SplitDigits, describe
from clpack.data import TensorImages


def _source(part: str) -> tuple[Tensor, Tensor]:
    """The images ``(N, 64)`` and labels of a part, straight from scikit-learn."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(1797)
    rows = order[:1437] if part == "train" else order[1437:]
    return torch.tensor(pixels[rows] / 16, dtype=torch.float32), torch.tensor(labels[rows])


def _content(experience: Any) -> tuple[Tensor, Tensor, Tensor]:
    """All images ``(N, 64)``, labels and task labels of an experience, as its loader would give them."""
    samples = [experience.dataset[i] for i in range(len(experience.dataset))]
    images, labels, tasks = zip(*samples, strict=True)
    return torch.stack(images).flatten(1), torch.tensor(labels), torch.tensor(tasks)


def _sorted_rows(images: Tensor, labels: Tensor) -> list[tuple[float, ...]]:
    """The labeled images as a multiset: Avalanche groups the samples of an experience by class."""
    return sorted(tuple(row) for row in torch.cat([labels[:, None].float(), images], dim=1).tolist())


def _class_sets(benchmark: Any) -> list[set[int]]:
    return [set(experience.classes_in_this_experience) for experience in benchmark.train_stream]


class TestSplitDigits:
    def test_every_image_appears_once_with_its_label(self) -> None:
        benchmark = SplitDigits(seed=3)
        for stream, part in ((benchmark.train_stream, "train"), (benchmark.test_stream, "test")):
            contents = [_content(experience) for experience in stream]
            images, labels = torch.cat([c[0] for c in contents]), torch.cat([c[1] for c in contents])
            assert _sorted_rows(images, labels) == _sorted_rows(*_source(part))
        assert sum(len(experience.dataset) for experience in benchmark.train_stream) == 1437
        assert sum(len(experience.dataset) for experience in benchmark.test_stream) == 360

    def test_images_are_floats_between_zero_and_one(self) -> None:
        image, label, task = SplitDigits(shuffle=False).train_stream[0].dataset[0]
        assert image.shape == (1, 8, 8)
        assert image.dtype == torch.float32
        assert image.min() == 0
        assert image.max() == 1
        assert (type(label), type(task)) == (int, int)

    def test_experiences_share_the_classes(self) -> None:
        benchmark = SplitDigits(5, shuffle=False)
        assert _class_sets(benchmark) == [{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}]
        for experience in benchmark.test_stream:
            assert set(_content(experience)[1].tolist()) == set(experience.classes_in_this_experience)

    def test_fixed_order_of_a_part_of_the_classes(self) -> None:
        benchmark = SplitDigits(2, fixed_class_order=[7, 1, 9, 4])
        assert _class_sets(benchmark) == [{7, 1}, {9, 4}]

    def test_larger_images(self) -> None:
        small, large = (SplitDigits(1, image_size=size).test_stream[0].dataset[5][0] for size in (8, 16))
        assert torch.equal(torch.nn.functional.interpolate(small[None], size=16, mode="bilinear")[0], large)
        assert describe("SplitDigits", image_size=16).image_shape == large.shape

    @pytest.mark.parametrize(
        ("seed", "order"),
        [(0, [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]), (3, [5, 4, 1, 2, 9, 6, 7, 0, 3, 8])],  # recorded with condensed replay
    )
    def test_numpys_order(self, seed: int, order: list[int]) -> None:
        assert SplitDigits(seed=seed, fixed_class_order="numpy").classes_order == order

    @pytest.mark.parametrize("seed", [0, 1, 1234])
    def test_class_order_is_avalanches_for_the_same_seed(self, seed: int) -> None:
        images, labels = _source("train")
        data = TensorImages(images.view(-1, 1, 8, 8), labels)
        theirs = nc_benchmark(data, data, n_experiences=5, task_labels=False, seed=seed)
        assert SplitDigits(seed=seed).classes_order == theirs.classes_order

    def test_without_seed_the_global_generator_decides_as_in_avalanche(self) -> None:
        images, labels = _source("train")
        data = TensorImages(images.view(-1, 1, 8, 8), labels)
        torch.manual_seed(11)
        ours = SplitDigits().classes_order
        assert ours == nc_benchmark(data, data, n_experiences=5, task_labels=False).classes_order
        assert ours != SplitDigits().classes_order  # Avalanche has drawn from the generator in between

    def test_task_labels(self) -> None:
        plain, labeled = SplitDigits(seed=0), SplitDigits(seed=0, return_task_id=True)
        assert [experience.task_labels for experience in plain.train_stream] == [[0]] * 5
        assert [experience.task_labels for experience in labeled.test_stream] == [[0], [1], [2], [3], [4]]
        assert set(_content(labeled.train_stream[3])[2].tolist()) == {3}

    def test_class_ids_from_zero_in_each_experience(self) -> None:
        benchmark = SplitDigits(2, fixed_class_order=[7, 1, 9, 4], class_ids_from_zero_in_each_exp=True)
        images, labels = _source("test")
        for experience, digits in zip(benchmark.test_stream, ([7, 1], [9, 4]), strict=True):
            found_images, found_labels, _ = _content(experience)
            for new_label, digit in enumerate(digits):
                expected = images[labels == digit]
                assert torch.equal(found_images[found_labels == new_label], expected)

    def test_class_ids_from_zero_from_first_experience(self) -> None:
        benchmark = SplitDigits(2, fixed_class_order=[7, 1, 9, 4], class_ids_from_zero_from_first_exp=True)
        assert _class_sets(benchmark) == [{0, 1}, {2, 3}]
        images, labels = _source("test")
        found_images, found_labels, _ = _content(benchmark.test_stream[1])
        assert torch.equal(found_images[found_labels == 2], images[labels == 9])

    def test_transforms_go_to_their_stream(self) -> None:
        benchmark = SplitDigits(train_transform=lambda image: image + 1, eval_transform=lambda image: image - 1)
        assert benchmark.train_stream[0].dataset[0][0].min() == 1
        assert benchmark.test_stream[0].dataset[0][0].max() == 0


class TestPermutedDigits:
    @pytest.mark.parametrize(("seed", "first_state"), [(0, 1), (2, 2001)])
    def test_pixels_move_by_the_stated_permutations(self, seed: int, first_state: int) -> None:
        benchmark = PermutedDigits(3, seed=seed)
        permutations = [np.arange(64)] + [np.random.RandomState(first_state + i).permutation(64) for i in range(2)]
        for stream, part in ((benchmark.train_stream, "train"), (benchmark.test_stream, "test")):
            images, labels = _source(part)
            for experience, p in zip(stream, permutations, strict=True):
                found_images, found_labels, _ = _content(experience)
                assert _sorted_rows(found_images, found_labels) == _sorted_rows(images[:, p], labels)

    def test_first_pixels_by_hand(self) -> None:
        """The permutation of experience 1 starts 24, 39, 52."""
        original, permuted = (e.dataset[0][0].flatten() for e in PermutedDigits(2).test_stream)
        assert permuted[:3].tolist() == [original[24], original[39], original[52]]

    def test_without_seed_the_state_of_the_global_generator_decides(self) -> None:
        torch.manual_seed(11)
        drawn = int(torch.randint(4_000_001, ()))
        torch.manual_seed(11)
        state = torch.get_rng_state()
        first, second = PermutedDigits(2, seed=None), PermutedDigits(2, seed=None)
        assert torch.equal(torch.get_rng_state(), state)
        images, labels = _source("test")
        p = np.random.RandomState(1000 * drawn + 1).permutation(64)
        for benchmark in (first, second, PermutedDigits(2, seed=drawn)):
            found_images, found_labels, _ = _content(benchmark.test_stream[1])
            assert _sorted_rows(found_images, found_labels) == _sorted_rows(images[:, p], labels)

    def test_default_is_domain_incremental(self) -> None:
        benchmark = PermutedDigits()
        assert len(benchmark.train_stream) == 8
        assert _class_sets(benchmark) == [set(range(10))] * 8
        assert {tuple(experience.task_labels) for experience in benchmark.test_stream} == {(0,)}

    def test_a_class_for_each_digit_of_each_experience(self) -> None:
        benchmark = PermutedDigits(4, return_task_id=True, class_ids_from_zero_in_each_exp=False)
        assert _class_sets(benchmark) == [set(range(10 * i, 10 * i + 10)) for i in range(4)]
        images, labels = _source("test")
        for i, experience in enumerate(benchmark.test_stream):
            p = np.random.RandomState(i).permutation(64) if i else np.arange(64)
            found_images, found_labels, found_tasks = _content(experience)
            assert _sorted_rows(found_images, found_labels) == _sorted_rows(images[:, p], labels + 10 * i)
            assert set(found_tasks.tolist()) == {i}

    def test_transforms_see_permuted_images(self) -> None:
        def first_pixel(image: Tensor) -> Tensor:
            return image.flatten()[:1]

        p = np.random.RandomState(1).permutation(64)
        benchmark = PermutedDigits(2, eval_transform=first_pixel)
        images, labels = _source("test")
        found_images, found_labels, _ = _content(benchmark.test_stream[1])
        assert torch.equal(found_images[found_labels == 4, 0], images[labels == 4][:, p[0]])


@pytest.mark.parametrize("create", [SplitDigits, PermutedDigits])
def test_same_arguments_same_stream_and_global_generators_untouched(create: Callable[..., Any]) -> None:
    states = torch.get_rng_state(), pickle.dumps(np.random.get_state()), random.getstate()  # noqa: NPY002
    first, second = create(5, seed=9), create(5, seed=9)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (pickle.dumps(np.random.get_state()), random.getstate()) == states[1:]  # noqa: NPY002
    assert first.classes_order == second.classes_order
    for one, other in zip(first.train_stream, second.train_stream, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(_content(one), _content(other), strict=True))


def test_largest_seeds() -> None:
    assert sorted(SplitDigits(seed=2**64 - 1).classes_order) == list(range(10))
    original, permuted = (e.dataset[0][0].flatten() for e in PermutedDigits(2, seed=4_000_000).test_stream)
    assert torch.equal(permuted, original[np.random.RandomState(4_000_000_001).permutation(64)])


def test_other_seeds_give_other_streams() -> None:
    assert len({tuple(SplitDigits(seed=seed).classes_order) for seed in range(4)}) == 4
    streams = [PermutedDigits(2, seed=seed).train_stream[1].dataset[0][0] for seed in range(4)]
    assert not any(torch.equal(streams[i], streams[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_experiences": 3}, ValueError, r"divide the 10 classes evenly: got 3, expected one of \[1, 2, 5, 10\]"),
        ({"n_experiences": 20}, ValueError, "got 20"),
        ({"n_experiences": 0}, ValueError, "n_experiences must be at least 1, got 0"),
        ({"n_experiences": 2.0}, TypeError, "n_experiences must be an integer, got 2.0 of type float"),
        ({"n_experiences": True}, TypeError, "n_experiences must be an integer, got True"),
        ({"seed": "1"}, TypeError, "seed must be an integer, got '1'"),
        ({"seed": -1}, ValueError, "seed must not be negative, got -1"),
        (
            {"seed": 2**64},
            ValueError,
            "seed must be at most 18446744073709551615 for this stream, got 184467440737095516",
        ),
        ({"fixed_class_order": [0, 1, 1, 2, 0]}, ValueError, r"each class once, got \[0, 1\] more than once"),
        ({"fixed_class_order": [0, 10, -1]}, ValueError, r"classes 0\.\.9, got the unknown \[-1, 10\]"),
        ({"fixed_class_order": [0.5]}, TypeError, "integer classes, got 0.5 of type float"),
        ({"fixed_class_order": []}, ValueError, "at least one class"),
        ({"image_size": 7}, ValueError, "at least 8 pixels, got 7"),
        ({"image_size": 28.0}, ValueError, r"an integer of at least 8 pixels, got 28\.0"),
        ({"fixed_class_order": "random"}, ValueError, "a list of classes, 'numpy' or None, got 'random'"),
        ({"fixed_class_order": "numpy"}, ValueError, "needs a seed, got None"),
        ({"fixed_class_order": "numpy", "seed": 2**32}, ValueError, "at most 4294967295"),
        ({"fixed_class_order": [1, 2, 3]}, ValueError, r"the 3 classes evenly: got 5, expected one of \[1, 3\]"),
        (
            {"class_ids_from_zero_in_each_exp": True, "class_ids_from_zero_from_first_exp": True},
            ValueError,
            "mutually exclusive",
        ),
    ],
)
def test_split_digits_refuses(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SplitDigits(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_experiences": 0}, ValueError, "n_experiences must be at least 1, got 0"),
        ({"n_experiences": "8"}, TypeError, "n_experiences must be an integer, got '8'"),
        ({"seed": 1.5}, TypeError, "seed must be an integer, got 1.5"),
        ({"seed": -3}, ValueError, "seed must not be negative, got -3"),
        ({"seed": 4_000_001}, ValueError, "seed must be at most 4000000 for this stream, got 4000001"),
    ],
)
def test_permuted_digits_refuses(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PermutedDigits(**arguments)
