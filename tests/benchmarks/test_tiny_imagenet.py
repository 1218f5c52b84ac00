"""The streams of Tiny-ImageNet from forged archives, and from the real one where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torchvision.transforms import Normalize

from clpack.benchmarks import SplitTinyImageNet, SplitTinyImageNet100, check, describe
from clpack.condensation import NORMALIZATION
from clpack.strategies import ExperienceLoader

from .conftest import forge_tiny_imagenet


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    forge_tiny_imagenet(monkeypatch, tmp_path)
    return tmp_path


@pytest.mark.parametrize("size", [32, 84])
def test_images_and_labels(size: int, root: Path) -> None:
    benchmark = SplitTinyImageNet100(2, image_size=size, dataset_root=root)
    for name, numbers in (("train", (0, 1)), ("test", (2,))):
        for task, experience in enumerate(benchmark.streams[name]):
            expected = [(label, number) for label in (2 * task, 2 * task + 1) for number in numbers]
            assert [(label, where) for _, label, where in experience.dataset] == [(c, task) for c, _ in expected]
            for (image, *_), (label, number) in zip(experience.dataset, expected, strict=True):
                assert image.shape == describe("SplitTinyImageNet100", image_size=size).image_shape == (3, size, size)
                levels = (image if size == 32 else image / 2 + 0.5) * 255
                color = torch.tensor([40.0 * label + 20, 40 * number + 20, 128])
                if (label, number) != (3, 2):  # which is grey
                    torch.testing.assert_close(levels.mean((1, 2)), color, atol=3, rtol=0)
    dataset = benchmark.train_stream[0].dataset
    assert ExperienceLoader(torch.utils.data.DataLoader(dataset, collate_fn=dataset.collate_fn)).gathers
    assert benchmark.data_description == f"100 classes of a part of Tiny-ImageNet, {size} x {size} pixels"


@pytest.mark.parametrize("subset", [False, True])
def test_all_classes_as_they_are(subset: bool, root: Path) -> None:
    benchmark = SplitTinyImageNet(5, subset=subset, seed=3, dataset_root=root)
    order = [label for experience in benchmark.train_stream for label in experience.classes_in_this_experience]
    assert sorted(order) == [0, 1, 2, 3, 4] != order
    for experience in benchmark.train_stream:
        dataset = experience.dataset
        for number, (image, label, task) in enumerate(dataset):
            assert (label, task) == (order[experience.current_experience], 0)
            assert image.shape == describe("SplitTinyImageNet").image_shape
            color = torch.tensor([40.0 * label + 20, 40 * number + 20, 128])
            torch.testing.assert_close(255 * image.mean((1, 2)), color, atol=3, rtol=0)
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [1] * 5
    normalized = SplitTinyImageNet(5, subset=subset, seed=3, normalize=True, dataset_root=root).train_stream[4].dataset
    torch.testing.assert_close(normalized[1][0], Normalize(*NORMALIZATION["tiny_imagenet"])(image))
    part = ", 80 training images of each class"
    assert benchmark.data_description == (f"a part of Tiny-ImageNet{part}" if subset else "Tiny-ImageNet")


def test_missing_archive_and_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Get tiny-imagenet-200-subset.zip from"):
        SplitTinyImageNet100(dataset_root=tmp_path)
    for subset, name in ((False, "tiny-imagenet-200.zip"), (True, "tiny-imagenet-200-subset.zip")):
        with pytest.raises(FileNotFoundError, match=f"Get {name} from"):
            SplitTinyImageNet(subset=subset, dataset_root=tmp_path)
    with pytest.raises(TypeError, match="subset must be True or False, got 'yes'"):
        check("SplitTinyImageNet", subset="yes")
    for attempt in (SplitTinyImageNet100, lambda **given: check("SplitTinyImageNet100", **given)):
        with pytest.raises(ValueError, match="image_size must be 32 or 84, got 64"):
            attempt(image_size=64)


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_real_data() -> None:
    benchmark = SplitTinyImageNet100(image_size=32)
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [400] * 20
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [100] * 20
    assert [sorted(e.classes_in_this_experience) for e in benchmark.test_stream][19] == [95, 96, 97, 98, 99]
    images = torch.stack([image for image, *_ in benchmark.train_stream[0].dataset])
    assert 0.3 < float(images.mean()) < 0.6
    benchmark = SplitTinyImageNet(1, subset=True, seed=0)
    assert [len(stream[0].dataset) for stream in (benchmark.train_stream, benchmark.test_stream)] == [16000, 4000]
