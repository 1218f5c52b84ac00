"""Plain split streams: against Avalanche's with everything switched off, and CIFAR-10 (JPEG)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.benchmarks import classic
from torchvision.transforms import ToTensor

from clpack.benchmarks import PlainSplitCIFAR100, SplitCIFAR10JPEG, check, plain
from clpack.strategies import ExperienceLoader

from .conftest import forge_cifar10_jpeg


def test_cifar100_is_avalanches_without_shuffling_and_augmentation(root: Path) -> None:
    ours = PlainSplitCIFAR100(dataset_root=root)
    options: dict[str, Any] = {"train_transform": ToTensor(), "eval_transform": ToTensor(), "dataset_root": root}
    theirs = classic.SplitCIFAR100(20, return_task_id=True, shuffle=False, **options)
    for task in range(20):
        for name, size in (("train", 15), ("test", 5)):
            mine, other = (benchmark.streams[name][task].dataset for benchmark in (ours, theirs))
            assert len(mine) == len(other) == size
            by_class = sorted(other, key=lambda sample: int(sample[1]))  # theirs come in the order of a set
            for (image, *labels), (expected, *expected_labels) in zip(mine, by_class, strict=True):
                assert torch.equal(image, expected)
                assert labels == expected_labels
        assert sorted(ours.train_stream[task].classes_in_this_experience) == list(range(5 * task, 5 * task + 5))
    dataset = ours.train_stream[0].dataset
    assert ExperienceLoader(torch.utils.data.DataLoader(dataset, collate_fn=dataset.collate_fn)).gathers
    assert ours.data_description == "CIFAR-100"


def test_class_order_and_numbering(root: Path) -> None:
    order = list(range(99, 89, -1))
    benchmark = PlainSplitCIFAR100(
        5, fixed_class_order=order, class_ids_from_zero_in_each_exp=True, return_task_id=False, dataset_root=root
    )
    original = PlainSplitCIFAR100(1, dataset_root=root).test_stream[0].dataset
    for task, experience in enumerate(benchmark.test_stream):
        assert experience.task_labels == [0]
        for image, label, _ in experience.dataset:
            assert torch.equal(image, original[order[2 * task + label]][0])


def test_each_stream_has_its_own_transform(root: Path) -> None:
    unchanged = PlainSplitCIFAR100(20, dataset_root=root)
    changed = PlainSplitCIFAR100(
        20, train_transform=lambda image: 1 - image, eval_transform=lambda image: image / 2, dataset_root=root
    )
    for before, after in zip(unchanged.train_stream, changed.train_stream, strict=True):
        for (image, *_), (found, *_), (evaluated, *_) in zip(
            before.dataset, after.dataset, after.dataset.eval(), strict=True
        ):
            assert torch.equal(found, 1 - image)
            assert torch.equal(evaluated, image / 2)
    for before, after in zip(unchanged.test_stream, changed.test_stream, strict=True):
        for (image, *_), (found, *_) in zip(before.dataset, after.dataset, strict=True):
            assert torch.equal(found, image / 2)


def test_cifar10_jpeg(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="Get cifar10-jpeg.zip from"):
        SplitCIFAR10JPEG(dataset_root=root)
    forge_cifar10_jpeg(monkeypatch, root)
    benchmark = SplitCIFAR10JPEG(dataset_root=root)
    for name, copies in (("train", 3), ("test", 1)):
        for task, experience in enumerate(benchmark.streams[name]):
            expected = [(20 * label + 20, 20 * k + 20) for label in (2 * task, 2 * task + 1) for k in range(copies)]
            found = torch.stack([image.mean((1, 2)) * 255 for image, *_ in experience.dataset])
            torch.testing.assert_close(found[:, [0, 2]], torch.tensor(expected).float(), atol=4, rtol=0)
            assert [label for _, label, _ in experience.dataset] == [red // 20 - 1 for red, _ in expected]
    assert benchmark.data_description == "CIFAR-10 (JPEG)"


def test_whitened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Centering:  # whitening would take long
        def __init__(self, images: torch.Tensor) -> None:
            assert images.dtype == torch.float64
            self.mean = images.mean(0)
            self.matrix = torch.ones((), dtype=torch.float64)

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return (images - self.mean) * self.matrix

    monkeypatch.setattr(plain, "ZCA", Centering)
    before_all, after_all = (PlainSplitCIFAR100(5, whiten=whiten, dataset_root=root) for whiten in (False, True))
    mean = torch.stack([x for experience in before_all.train_stream for x, *_ in experience.dataset]).mean(0)
    for name in ("train", "test"):
        for before, after in zip(before_all.streams[name], after_all.streams[name], strict=True):
            for (image, *_), (found, *_) in zip(before.dataset, after.dataset, strict=True):
                torch.testing.assert_close(found, image - mean)  # of one type, float32
            assert list(before.dataset.targets) == list(after.dataset.targets)
    assert after_all.data_description == "CIFAR-100, whitened"
    with pytest.raises(TypeError, match="whiten must be True or False, got 1"):
        check("PlainSplitCIFAR100", whiten=1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("PlainSplitCIFAR100", {"n_experiences": 3}, "must divide the 100 classes evenly: got 3"),
        ("SplitCIFAR10JPEG", {"fixed_class_order": [3, 3]}, "each class once"),
    ],
)
def test_arguments(name: str, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check(name, **arguments)
    create = PlainSplitCIFAR100 if name == "PlainSplitCIFAR100" else SplitCIFAR10JPEG
    with pytest.raises(ValueError, match=message):
        create(**arguments, dataset_root=tmp_path)


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_real_data() -> None:
    benchmark = SplitCIFAR10JPEG()
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [10000] * 5
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [2000] * 5
    images = torch.stack([image for image, *_ in benchmark.test_stream[0].dataset])
    assert 0.4 < float(images.mean()) < 0.6
