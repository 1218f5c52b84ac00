"""Split Tiny-ImageNet-100 from a forged archive, and from the real one where it is."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from clpack.benchmarks import SplitTinyImageNet100, check, describe, tiny_imagenet
from clpack.strategies import ExperienceLoader

from .conftest import _put

CLASSES = ["n05", "n01", "n04", "n02", "n03"]  # of which the first four by name are used
TOP = "tiny-imagenet-200"


def jpeg(label: int, number: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (40 * label + 20, 40 * number + 20, 128)).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiny_imagenet, "_N_CLASSES", 4)
    archive, annotations = io.BytesIO(), []
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr(f"{TOP}/wnids.txt", "\n".join(CLASSES))
        for name in CLASSES:
            label = int(name[1:]) - 1
            for number in (1, 0):
                members.writestr(f"{TOP}/train/{name}/images/{name}_{number}.JPEG", jpeg(label, number))
            annotations.append(f"val_{label}.JPEG\t{name}\t0\t0\t9\t9")
            members.writestr(f"{TOP}/val/images/val_{label}.JPEG", jpeg(label, 2, "L" if label == 3 else "RGB"))
        members.writestr(f"{TOP}/val/val_annotations.txt", "\n".join(annotations))
    path = "tiny-imagenet-200-subset/tiny-imagenet-200-subset.zip"
    _put(monkeypatch, tmp_path, "TinyImageNet-subset", {path: archive.getvalue()})
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


def test_missing_archive_and_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Get tiny-imagenet-200-subset.zip from"):
        SplitTinyImageNet100(dataset_root=tmp_path)
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
