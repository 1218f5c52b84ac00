"""Split CUB from forged lists and small images, and the real lists where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from clpack.benchmarks import SplitCUB, check, cub
from clpack.benchmarks.files import resolve_dataset_root
from clpack.strategies import ExperienceLoader

from .conftest import _put

N_CLASSES = 4


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset root with four classes, each of three images of odd sizes; the second one is for testing."""
    monkeypatch.setattr(cub, "_N_CLASSES", N_CLASSES)
    rng = np.random.default_rng(0)
    rows = [(label, number) for label in range(N_CLASSES) for number in range(3)]
    lines: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for row, (label, number) in enumerate(rows, start=1):
        name = f"{label + 1:03}.Bird/{number}.png"
        path = tmp_path / "CUB_200_2011/images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30 + row, 50 - row, 3), dtype=np.uint8)).save(path)
        lines["images"].append(f"{row} {name}")
        lines["image_class_labels"].append(f"{row} {label + 1}")
        lines["train_test_split"].append(f"{row} {int(number != 1)}")
    Image.new("L", (20, 20), 128).save(tmp_path / "CUB_200_2011/images/001.Bird/0.png")  # a few images are grey
    _put(
        monkeypatch,
        tmp_path,
        "CUB200",
        {f"CUB_200_2011/{name}.txt": "\n".join(text).encode() for name, text in lines.items()},
    )
    return tmp_path


def test_lists_and_labels(root: Path) -> None:
    benchmark = SplitCUB(2, dataset_root=root)
    for name, copies in (("train", 2), ("test", 1)):
        for task, experience in enumerate(benchmark.streams[name]):
            expected = [(label, task) for label in (2 * task, 2 * task + 1) for _ in range(copies)]
            assert [(label, where) for _, label, where in experience.dataset] == expected
    assert "preprocessing 'authors'" in benchmark.data_description


def test_preprocessing_of_the_authors(root: Path) -> None:
    image = SplitCUB(2, dataset_root=root).test_stream[1].dataset[1][0]  # row 11: class 3, number 1
    pixels = np.asarray(Image.open(root / "CUB_200_2011/images/004.Bird/1.png")).astype(np.float64)
    height, width = pixels.shape[:2]

    def sources(size: int) -> tuple[Any, Any, Any]:
        """Bilinear interpolation between the centers of pixels, by the book."""
        place = np.clip((np.arange(224) + 0.5) * size / 224 - 0.5, 0, size - 1)
        low = np.floor(place).astype(int)
        return low, np.minimum(low + 1, size - 1), place - low

    (top, bottom, down), (left, right, across) = sources(height), sources(width)
    across, down = across[None, :, None], down[:, None, None]
    upper = pixels[top][:, left] * (1 - across) + pixels[top][:, right] * across
    lower = pixels[bottom][:, left] * (1 - across) + pixels[bottom][:, right] * across
    resized = upper * (1 - down) + lower * down
    expected = torch.from_numpy((resized - [103.94, 116.78, 123.68] - 0.5) * 2).permute(2, 0, 1).float()
    assert image.shape == (3, 224, 224)
    torch.testing.assert_close(image, expected, atol=1.001, rtol=0)  # half a grey level, doubled
    grey = SplitCUB(2, dataset_root=root).train_stream[0].dataset[0][0]
    expected_grey = [(128 - mean - 0.5) * 2 for mean in (103.94, 116.78, 123.68)]
    torch.testing.assert_close(grey[:, 0, 0], torch.tensor(expected_grey), atol=1e-3, rtol=0)


def test_standard_preprocessing(root: Path) -> None:
    ours = SplitCUB(2, preprocessing="standard", dataset_root=root).test_stream[1].dataset[1][0]
    theirs = Compose(
        [Resize(256), CenterCrop(224), ToTensor(), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )
    expected = theirs(Image.open(root / "CUB_200_2011/images/004.Bird/1.png"))
    assert ours.shape == (3, 224, 224)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_batches_are_gathered(root: Path) -> None:
    dataset = SplitCUB(2, dataset_root=root).train_stream[0].dataset
    assert ExperienceLoader(torch.utils.data.DataLoader(dataset, collate_fn=dataset.collate_fn)).gathers


def test_missing_and_broken_images(root: Path, tmp_path: Path) -> None:
    (root / "CUB_200_2011/images/002.Bird/2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"002.Bird/2.png cannot be read as an image"):
        SplitCUB(2, dataset_root=root)
    (root / "CUB_200_2011/images/002.Bird/2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the images of CUB-200-2011 are missing, the first .*002.Bird/2"):
        SplitCUB(2, dataset_root=root)


def test_missing_lists_and_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CUB_200_2011/images: missing(.|\n)*tar xzf CUB_200_2011.tgz"):
        SplitCUB(dataset_root=tmp_path)
    for attempt in (SplitCUB, lambda **given: check("SplitCUB", **given)):
        with pytest.raises(ValueError, match="preprocessing must be 'authors' or 'standard', got 'none'"):
            attempt(preprocessing="none")


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_real_lists() -> None:
    lists = cub.read_lists(resolve_dataset_root() / "CUB_200_2011-lists/CUB_200_2011")
    labels = {name: np.array(labels) for name, (_, labels) in lists.items()}
    assert [len(labels[name]) for name in ("train", "test")] == [5994, 5794]
    per_task = np.bincount(labels["test"] // 10)
    assert (len(per_task), per_task[0], per_task[19]) == (20, 243, 300)  # the sizes in the authors' logs
    assert lists["train"][0][0].name == "Black_Footed_Albatross_0009_34.jpg"
