"""Avalanche's image streams from local files: small forged data sets stand in for the real ones."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import classic

import clpack.benchmarks as benchmarks
from clpack.benchmarks import (
    PermutedMNIST,
    RotatedMNIST,
    SplitCIFAR10,
    SplitCIFAR100,
    SplitFMNIST,
    SplitMNIST,
    describe,
    files,
    names,
)

_FROM_FILES = [name for name in names() if describe(name).module == "vision"]


def _classes(benchmark: Any) -> list[set[int]]:
    return [set(experience.classes_in_this_experience) for experience in benchmark.train_stream]


@pytest.mark.parametrize("name", _FROM_FILES)
def test_signature_is_avalanches(name: str) -> None:
    ours, theirs = getattr(benchmarks, name), getattr(classic, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert "download" not in ours.__doc__
    assert describe(name).data_set in ours.__doc__


@pytest.mark.parametrize("name", _FROM_FILES)
def test_missing_files_are_named_before_anything_is_opened(name: str, tmp_path: Path) -> None:
    first = next(d for d in files.describe_data_sets() if d.name == describe(name).data_set).files[0]
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / first.path}: missing"):
        getattr(benchmarks, name)(5, dataset_root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_file_is_named(root: Path) -> None:
    with (root / "MNIST/raw/t10k-labels-idx1-ubyte").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte: wrong content, MD5 .* \(10 bytes\)"):
        SplitMNIST(5, dataset_root=root)


def test_environment_names_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLPACK_DATA", str(root))
    assert len(SplitMNIST(5).train_stream) == 5


@pytest.mark.parametrize("create", [SplitMNIST, SplitFMNIST])
def test_split_streams_share_the_classes(create: Callable[..., Any], root: Path) -> None:
    benchmark = create(2, fixed_class_order=[8, 6, 4, 2], return_task_id=True, dataset_root=root)
    assert _classes(benchmark) == [{8, 6}, {4, 2}]
    assert [experience.task_labels for experience in benchmark.test_stream] == [[0], [1]]
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [6, 6]
    image, label, task = benchmark.test_stream[1].dataset[0]
    assert image.shape == (1, 28, 28)
    assert label in {4, 2}
    assert task == 1


@pytest.mark.parametrize(
    ("create", "theirs"), [(SplitMNIST, classic.SplitMNIST), (SplitCIFAR100, classic.SplitCIFAR100)]
)
def test_class_order_is_avalanches_and_the_global_generator_stays(
    create: Callable[..., Any], theirs: Callable[..., Any], root: Path
) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    ours = create(5, seed=42, dataset_root=root)
    assert torch.equal(torch.get_rng_state(), state)
    assert ours.classes_order == theirs(5, seed=42, dataset_root=root).classes_order
    assert not torch.equal(torch.get_rng_state(), state)  # what Avalanche's function does, and ours must not


def test_first_experience_with_half_of_the_classes(root: Path) -> None:
    benchmark = SplitCIFAR100(11, first_exp_with_half_classes=True, shuffle=False, dataset_root=root)
    assert _classes(benchmark)[:2] == [set(range(50)), set(range(50, 55))]
    assert benchmark.train_stream[0].dataset[0][0].shape == (3, 32, 32)
    fashion = SplitFMNIST(6, first_batch_with_half_classes=True, shuffle=False, dataset_root=root)
    assert _classes(fashion) == [{0, 1, 2, 3, 4}, {5}, {6}, {7}, {8}, {9}]


def test_permuted_mnist_permutes_and_is_repeatable(root: Path) -> None:
    options: dict[str, Any] = {"seed": 4, "train_transform": None, "eval_transform": None, "dataset_root": root}
    state = torch.get_rng_state()
    benchmark, again = PermutedMNIST(3, **options), PermutedMNIST(3, **options)
    assert torch.equal(torch.get_rng_state(), state)
    original = classic.SplitMNIST(1, shuffle=False, train_transform=None, dataset_root=root).train_stream[0].dataset
    rng = np.random.RandomState(4)
    for i in range(3):
        p = rng.permutation(784)
        image, label, _ = benchmark.train_stream[i].dataset[7]
        assert label == original[7][1]
        assert torch.equal(image.flatten(), original[7][0].flatten()[p])
        assert torch.equal(image, again.train_stream[i].dataset[7][0])


def test_rotated_mnist_rotates(root: Path) -> None:
    options: dict[str, Any] = {"train_transform": None, "eval_transform": None, "dataset_root": root}
    benchmark = RotatedMNIST(2, rotations_list=[0, 90], **options)
    straight, turned = (benchmark.train_stream[i].dataset[0][0] for i in range(2))
    torch.testing.assert_close(turned, straight.rot90(1, (1, 2)))


@pytest.mark.parametrize(
    ("create", "arguments", "error", "message"),
    [
        (
            SplitMNIST,
            {"n_experiences": 4},
            ValueError,
            r"10 classes evenly: got 4, expected one of \[1, 2, 5, 10\]",
        ),
        (SplitCIFAR10, {"n_experiences": 0}, ValueError, "at least 1, got 0"),
        (SplitCIFAR100, {"n_experiences": 5.0}, TypeError, "must be an integer, got 5.0 of type float"),
        (
            SplitCIFAR100,
            {"n_experiences": 10, "first_exp_with_half_classes": True},
            ValueError,
            r"evenly after a first experience of 50: got 10, expected one of \[2, 3, 6, 11, 26, 51\]",
        ),
        (
            SplitFMNIST,
            {"n_experiences": 5, "first_batch_with_half_classes": True},
            ValueError,
            r"after a first experience of 5: got 5, expected one of \[2, 6\]",
        ),
        (SplitFMNIST, {"n_experiences": 5, "fixed_class_order": [10]}, ValueError, r"0\.\.9, got the unknown \[10\]"),
        (PermutedMNIST, {"n_experiences": 0}, ValueError, "at least 1, got 0"),
        (PermutedMNIST, {"n_experiences": 2, "seed": -1}, ValueError, "seed must not be negative, got -1"),
        (
            PermutedMNIST,
            {"n_experiences": 2, "seed": 2**32},
            ValueError,
            "seed must be at most 4294967295 for this str",
        ),
        (RotatedMNIST, {"n_experiences": 2, "seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
        (
            SplitMNIST,
            {"n_experiences": 5, "class_ids_from_zero_in_each_exp": True, "class_ids_from_zero_from_first_exp": True},
            ValueError,
            "mutually exclusive, got True for both",
        ),
        (SplitMNIST, {}, TypeError, "n_experiences"),
        (SplitMNIST, {"n_experiences": 5, "seeds": 1}, TypeError, "seeds"),
    ],
)
def test_arguments_are_checked_before_the_files(
    create: Callable[..., Any], arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        create(**arguments, dataset_root=tmp_path)


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
class TestRealData:
    def test_mnist(self) -> None:
        benchmark = SplitMNIST(10, shuffle=False)
        counts = [len(experience.dataset) for experience in benchmark.train_stream]
        assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        counts = [len(experience.dataset) for experience in benchmark.test_stream]
        assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]

    def test_fashion_mnist(self) -> None:
        benchmark = SplitFMNIST(5, seed=0)
        assert [len(experience.dataset) for experience in benchmark.train_stream] == [12000] * 5
        assert [len(experience.dataset) for experience in benchmark.test_stream] == [2000] * 5

    def test_permuted_mnist(self) -> None:
        benchmark = PermutedMNIST(2, seed=0)
        assert [len(experience.dataset) for experience in benchmark.train_stream] == [60000] * 2
        assert _classes(benchmark) == [set(range(10))] * 2
