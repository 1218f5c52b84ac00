"""Mixed CIFAR-100 and permuted MNIST, on forged data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import CIFAR100, MNIST
from torchvision.transforms.functional import resize

from clpack.benchmarks import MixedCIFARPermutedMNIST, check, mixed

THIRD: dict[str, Any] = {"val_fraction": 0.34}  # of the three training images of each class


def test_streams(root: Path) -> None:
    benchmark = MixedCIFARPermutedMNIST(**THIRD, dataset_root=root)
    n_classes = [20, 10] * 3
    for name, per_class in (("train", 2), ("valid", 1), ("test", 1)):
        for task, experience in enumerate(benchmark.streams[name]):
            assert sorted(experience.dataset.targets) == sorted([*range(n_classes[task])] * per_class)
            assert experience.task_labels == [task]
            assert experience.dataset[0][0].shape == (3, 32, 32)
            assert experience.dataset[0][0].dtype == torch.float32
    numbered = MixedCIFARPermutedMNIST(
        4, return_task_id=False, class_ids_from_zero_in_each_exp=False, **THIRD, dataset_root=root
    )
    first = [0, 20, 30, 50]
    for stream in numbered.streams.values():
        assert [sorted(experience.classes_in_this_experience) for experience in stream] == (
            [list(range(start, start + n)) for start, n in zip(first, n_classes, strict=False)]
        )


def test_test_images_are_those_of_the_files(root: Path) -> None:
    benchmark = MixedCIFARPermutedMNIST(**THIRD, dataset_root=root)
    cifar, mnist = CIFAR100(root, train=False), MNIST(root, train=False)
    for task, first in ((0, 0), (2, 20), (4, 60)):
        for image, label, _ in benchmark.test_stream[task].dataset:
            original = torch.from_numpy(cifar.data[cifar.targets.index(first + label)]).permute(2, 0, 1)
            torch.testing.assert_close(image * 255, original.float())
    for task in (1, 3, 5):
        torch.manual_seed(task)
        permutation = torch.randperm(1024)
        for image, label, _ in benchmark.test_stream[task].dataset:
            digit = resize(mnist.data[mnist.targets == label], [32, 32], antialias=True)
            expected = digit.flatten()[permutation].view(1, 32, 32).expand(3, -1, -1)
            torch.testing.assert_close(image * 255, expected.float())


def test_training_images_are_cropped_and_flipped_once(root: Path) -> None:
    def images(**options: Any) -> torch.Tensor:
        dataset = MixedCIFARPermutedMNIST(1, val_fraction=0, **options, dataset_root=root).train_stream[0].dataset
        assert torch.equal(dataset[5][0], dataset[5][0])
        return torch.stack([image for image, *_ in dataset])

    assert torch.equal(images(), images(seed=0))
    assert not torch.equal(images(), images(seed=1))
    original = torch.arange(1, 1 + 3 * 32 * 32).view(1, 3, 32, 32).repeat(200, 1, 1, 1)
    changed = mixed._cropped_and_flipped(original, torch.Generator().manual_seed(0))
    found = set()
    for image in changed:
        flipped = image[0, 16, 16] > image[0, 16, 17]
        upright = image.flip(2) if flipped else image
        down, right = divmod(int(upright[0, 16, 16]) - int(original[0, 0, 16, 16]), 32)
        down, right = (down + 1, right - 32) if right > 4 else (down, right)
        assert max(abs(down), abs(right)) <= 4
        shifted = torch.zeros_like(upright)
        rows, columns = (slice(max(0, -by), 32 - max(0, by)) for by in (down, right))
        sources = (slice(max(0, by), 32 - max(0, -by)) for by in (down, right))
        shifted[(slice(None), rows, columns)] = original[0][(slice(None), *sources)]
        assert torch.equal(upright, shifted)
        found.add((down, right, bool(flipped)))
    assert len(found) > 100  # of 162
    assert {flipped for *_, flipped in found} == {True, False}


def test_at_most_1000_images_per_class() -> None:
    labels = torch.tensor([0, 1]).repeat(1500)
    rows = mixed._first_of_each_class(labels)
    assert rows.tolist() == list(range(2000))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_experiences": 7}, "n_experiences must be at most 6, got 7"),
        ({"val_fraction": 1.5}, "val_fraction must be at least 0"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check("MixedCIFARPermutedMNIST", **arguments)
    with pytest.raises(ValueError, match=message):
        MixedCIFARPermutedMNIST(**arguments, dataset_root=tmp_path)


def test_both_data_sets_are_needed(root: Path) -> None:
    (root / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="data set MNIST cannot be opened"):
        MixedCIFARPermutedMNIST(dataset_root=root)
