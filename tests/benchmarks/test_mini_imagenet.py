"""Split miniImageNet from forged cached splits, in old and new pickles, and from image files."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from clpack.benchmarks import SplitMiniImageNet, check, describe, mini_imagenet
from clpack.strategies import ExperienceLoader

SPLITS = {"train": 5, "test": 3, "val": 2}
PER_CLASS = 5


class _OldPickler(pickle._Pickler):
    """Writes text and bytes both as the strings of Python 2, as the public files have them."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def _string(self, value: str | bytes) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(content)) + content)

    dispatch[str] = dispatch[bytes] = _string


def old_pickle(content: Any) -> bytes:
    buffer = io.BytesIO()
    _OldPickler(buffer, 2).dump(content)
    return buffer.getvalue()


def image(label: int, number: int) -> np.ndarray[Any, Any]:
    pixels = np.zeros((84, 84, 3), np.uint8)
    pixels[:] = 20 * label, 40 * number, 0
    return pixels


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset root with ten classes of five images, whose rows in the files are not in order."""
    monkeypatch.setattr(mini_imagenet, "_SPLITS", SPLITS)
    monkeypatch.setattr(mini_imagenet, "_PER_CLASS", PER_CLASS)
    (tmp_path / "miniImageNet").mkdir()
    first = 0
    for split, n_classes in SPLITS.items():
        labels = np.repeat(np.arange(first, first + n_classes)[::-1], PER_CLASS)
        rows = {f"n{99 - label}": np.flatnonzero(labels == label).tolist() for label in sorted(set(labels.tolist()))}
        numbers = np.tile(np.arange(PER_CLASS), n_classes)
        content = {"image_data": np.stack(list(map(image, labels, numbers))), "class_dict": rows}
        dumps = old_pickle if split == "train" else pickle.dumps
        (tmp_path / f"miniImageNet/mini-imagenet-cache-{split}.pkl").write_bytes(dumps(content))
        first += n_classes
    return tmp_path


def content(benchmark: Any) -> list[list[tuple[int, int, int, int]]]:
    """What the training and the test images are by their colors, with their label and task."""
    found = []
    for stream in benchmark.streams.values():
        samples = []
        for experience in stream:
            for pixels, label, task in experience.dataset:
                assert (pixels.shape, pixels.dtype) == ((3, 84, 84), torch.float32)
                red, green, blue = ((pixels[:, 9, 9] / 2 + 0.5) * 255).round().int().tolist()
                assert blue == 0
                samples.append((red // 20, green // 40, label, task))
        found.append(samples)
    return found


def expected() -> list[list[tuple[int, int, int, int]]]:
    return [[(c, k, c, c // 2) for c in range(10) for k in numbers] for numbers in (range(4), range(4, 5))]


def test_splits_of_the_authors() -> None:
    assert list(mini_imagenet._SPLITS.items()) == [("train", 64), ("test", 20), ("val", 16)]
    assert mini_imagenet._PER_CLASS == 600


def test_cached_splits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLPACK_DATA", str(root))
    benchmark = SplitMiniImageNet(5)
    assert content(benchmark) == expected()
    assert float(benchmark.train_stream[0].dataset[0][0].min()) == -1
    dataset = benchmark.train_stream[0].dataset
    assert ExperienceLoader(torch.utils.data.DataLoader(dataset, collate_fn=dataset.collate_fn)).gathers


def test_image_files(root: Path, tmp_path: Path) -> None:
    first = 0
    for split, n_classes in SPLITS.items():
        for label in range(first, first + n_classes):
            folder = tmp_path / f"images/miniImageNet/{split}/n{label:02}"
            folder.mkdir(parents=True)
            for number in range(PER_CLASS):
                picture = Image.fromarray(image(label, number))
                (picture if number % 2 else picture.resize((60, 90))).save(folder / f"{number}.png")
        first += n_classes
    benchmark = SplitMiniImageNet(5, source="images", dataset_root=tmp_path / "images")
    assert content(benchmark) == expected()
    (folder / "4.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"n09/4.png cannot be read as an image"):
        SplitMiniImageNet(5, source="images", dataset_root=tmp_path / "images")
    (folder / "4.png").unlink()
    with pytest.raises(ValueError, match=r"n09 must hold the 5 images of a class, got 4 files"):
        SplitMiniImageNet(5, source="images", dataset_root=tmp_path / "images")


class _Evil:
    def __reduce__(self) -> Any:
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_data": np.zeros((10, 84, 84, 3), np.uint8)}, "KeyError"),
        ({"image_data": np.zeros((10, 8, 8, 3), np.uint8), "class_dict": {}}, r"uint8 of shape \(10, 8, 8, 3\)"),
        ({"image_data": np.zeros((10, 84, 84, 3)), "class_dict": {}}, "float64 of shape"),
        ({"image_data": np.zeros((10, 84, 84, 3), np.uint8), "class_dict": {"a": [10]}}, r"other rows than 0\.\.9"),
        (
            {"image_data": np.zeros((10, 84, 84, 3), np.uint8), "class_dict": {"a": [0, 1], "b": [2] * 5}},
            "3 classes of 5 images, got 2 of 2, 5",
        ),
        (_Evil(), "builtins.print"),
    ],
)
def test_wrong_caches_are_refused(wrong: Any, message: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "miniImageNet/mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps(wrong))
    with pytest.raises(ValueError, match=rf"mini-imagenet-cache-test.pkl must .*{message}"):
        SplitMiniImageNet(5, dataset_root=root)
    assert capsys.readouterr().out == ""


def test_missing_files_and_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mini-imagenet-cache-val.pkl: missing(.|\n)*zenodo"):
        SplitMiniImageNet(dataset_root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"miniImageNet/train: missing(.|\n)*folders with 600 images"):
        SplitMiniImageNet(source="images", dataset_root=tmp_path)
    for attempt in (SplitMiniImageNet, lambda **given: check("SplitMiniImageNet", **given)):
        with pytest.raises(ValueError, match="source must be 'cache' or 'images', got 'pickle'"):
            attempt(source="pickle")
    assert describe("SplitMiniImageNet", source="images").data_sets == ("miniImageNet-images",)
