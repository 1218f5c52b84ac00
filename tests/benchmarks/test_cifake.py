"""Split CIFAKE from two small forged archives, and from the real ones where they are."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clpack.benchmarks import SplitCIFAKE, check, get
from clpack.benchmarks._genimage_classes import Form
from clpack.benchmarks._substitution import hold_out, task_forms
from clpack.benchmarks.cifake import _CLASSES

from .conftest import _put

N_TRAIN = {"nature": 6, "ai": 4}  # of the 5 synthetic images of a class, one is for testing
N_TEST = {"nature": 2, "ai": 1}
HALF: dict[str, Any] = {"val_fraction": 0.5}


def jpeg(label: int, form: Form, number: int) -> bytes:
    """An image that tells what it is by its color."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (20 * label + 20, 40 if form == "nature" else 200, 20 * number + 20)).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


def what(image: torch.Tensor) -> tuple[int, Form, int]:
    """Label, form and number of an image."""
    red, green, blue = (image.mean((1, 2)) * 255).tolist()
    return round(red / 20) - 1, "nature" if green < 120 else "ai", round(blue / 20) - 1


@pytest.fixture
def cifake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset root with both archives."""
    natural, synthetic = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(natural, "w") as archive:
        for label, name in enumerate(_CLASSES):
            for number in range(6):
                archive.writestr(f"train/{name}/{number:04}.jpg", jpeg(label, "nature", number))
            for number in (6, 7):
                archive.writestr(f"test/{name}/{number - 6:04}.jpg", jpeg(label, "nature", number))
    with zipfile.ZipFile(synthetic, "w") as archive:
        for label, name in enumerate(_CLASSES):
            suffix = f" ({label + 1})" if label else ""
            for number in (4, 2, 0, 1, 3):
                archive.writestr(f"train/FAKE/{name}/{998 + number}{suffix}.jpg", jpeg(label, "ai", number))
    content = {"cifar10-jpeg/cifar10-jpeg.zip": natural, "cifake-fake/cifake-fake.zip": synthetic}
    _put(monkeypatch, tmp_path, "CIFAKE", {path: buffer.getvalue() for path, buffer in content.items()})
    return tmp_path


def test_streams(cifake: Path) -> None:
    options: dict[str, Any] = {"synthetic_tasks": [1], "shuffle": False, **HALF}
    benchmark = SplitCIFAKE(5, **options, dataset_root=cifake)
    for task in range(5):
        form: Form = "ai" if task == 1 else "nature"
        found = {}
        for name, stream in benchmark.streams.items():
            dataset = stream[task].dataset
            found[name] = sorted(what(dataset[i][0]) for i in range(len(dataset)))
            assert stream[task].task_labels == [task]
            assert list(dataset.targets) == [what(dataset[i][0])[0] - 2 * task for i in range(len(dataset))]
        classes = (2 * task, 2 * task + 1)
        assert sorted(found["train"] + found["valid"]) == [(c, form, k) for c in classes for k in range(N_TRAIN[form])]
        assert [len(found[name]) for name in ("train", "valid")] == [N_TRAIN[form]] * 2
        assert found["test"] == found["test_natural"] == [(c, "nature", k) for c in classes for k in (6, 7)]
        assert found["test_synthetic"] == [(c, "ai", 4) for c in classes]
    image = benchmark.train_stream[0].dataset[0][0]
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
    assert "CIFAR-10 (JPEG)" in benchmark.data_description


def test_class_order_and_numbering(cifake: Path) -> None:
    options: dict[str, Any] = {**HALF, "return_task_id": False, "class_ids_from_zero_in_each_exp": False}
    benchmark = SplitCIFAKE(2, fixed_class_order=[7, 3, 9, 0], **options, dataset_root=cifake)
    for stream in benchmark.streams.values():
        assert [set(experience.classes_in_this_experience) for experience in stream] == [{7, 3}, {9, 0}]
        assert [experience.task_labels for experience in stream] == [[0], [0]]
    from_zero = SplitCIFAKE(2, fixed_class_order=[7, 3, 9, 0], **HALF, dataset_root=cifake).test_stream[0].dataset
    assert {(label, what(image)[0]) for image, label, _ in from_zero} == {(0, 7), (1, 3)}

    def classes(seed: int | None) -> list[list[int]]:
        opened = SplitCIFAKE(5, seed=seed, **options, dataset_root=cifake)
        return [sorted(experience.classes_in_this_experience) for experience in opened.train_stream]

    state = torch.get_rng_state()
    assert classes(1) == classes(1) != classes(2)
    assert classes(None) == classes(None)
    assert torch.equal(torch.get_rng_state(), state)


def test_archives_are_closed(cifake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Recorded(zipfile.ZipFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(self)

    monkeypatch.setattr(zipfile, "ZipFile", Recorded)
    SplitCIFAKE(5, **HALF, dataset_root=cifake)
    assert [archive.fp for archive in opened] == [None, None]


def test_images_per_class(cifake: Path) -> None:
    options: dict[str, Any] = {"synthetic_tasks": 1, "images_per_class": 3, "val_fraction": 0}
    benchmark = SplitCIFAKE(2, **options, dataset_root=cifake)
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [15, 15]
    for experience in benchmark.train_stream:
        assert {what(image)[2] for image, *_ in experience.dataset} == {0, 1, 2}
    assert set(benchmark.streams) == {"train", "test", "test_natural", "test_synthetic"}
    with pytest.raises(ValueError, match=r"at most 4 for the images in .*cifake-fake.zip, got 5"):
        SplitCIFAKE(2, **{**options, "images_per_class": 5}, dataset_root=cifake)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_experiences": 3}, ValueError, "must divide the 10 classes evenly: got 3"),
        ({"n_experiences": 0}, ValueError, "at least 1, got 0"),
        ({"synthetic_tasks": 6}, ValueError, "a number of tasks from 0 to 5, got 6 for 5 tasks"),
        ({"images_per_class": 0}, ValueError, "images_per_class must be a positive integer or None, got 0"),
        ({"val_fraction": -0.1}, ValueError, "at least 0 and less than 1, got -0.1"),
        ({"class_ids_from_zero_in_each_exp": None}, TypeError, "class_ids_from_zero_in_each_exp must be True or False"),
        ({"fixed_class_order": [0, 0]}, ValueError, "each class once"),
        ({"seed": 0.5}, TypeError, "seed must be an integer"),
    ],
)
def test_arguments_are_checked_before_the_files(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    for attempt in (check, get, lambda name, **given: SplitCIFAKE(**given)):
        with pytest.raises(error, match=message):
            attempt("SplitCIFAKE", **arguments, dataset_root=tmp_path)


def test_missing_archive_is_named(cifake: Path) -> None:
    (cifake / "cifake-fake/cifake-fake.zip").unlink()
    with pytest.raises(FileNotFoundError, match="1 of its 2 files are missing or wrong:\n.*cifake-fake.zip: missing"):
        SplitCIFAKE(dataset_root=cifake)


@pytest.mark.parametrize(
    ("given", "forms"),
    [
        (0, ["nature", "nature", "nature"]),
        (2, ["ai", "ai", "nature"]),
        ([2], ["nature", "nature", "ai"]),
        ({0, 2}, ["ai", "nature", "ai"]),
        ((), ["nature", "nature", "nature"]),
        (["ai", "nature", "ai"], ["ai", "nature", "ai"]),
    ],
)
def test_task_forms(given: Any, forms: list[Form]) -> None:
    assert task_forms(given, 3) == forms


def test_hold_out_takes_the_same_part_of_each_class() -> None:
    targets = torch.tensor([3] * 10 + [1] * 20 + [5] * 5)[torch.randperm(35)]
    kept, held_out = hold_out(targets, 0.2, torch.Generator().manual_seed(0))
    assert targets[held_out].bincount().tolist() == [0, 4, 0, 2, 0, 1]
    assert torch.cat([kept, held_out]).sort().values.tolist() == list(range(35))
    assert kept.tolist() == sorted(kept.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())
    other = hold_out(targets, 0.2, torch.Generator().manual_seed(1))[1]
    assert other.tolist() != held_out.tolist()
    with pytest.raises(
        ValueError, match=r"val_fraction 0.02 holds out no image of classes of at most 20; raise it, or"
    ):
        hold_out(targets, 0.02, torch.Generator())


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_real_data() -> None:
    benchmark = SplitCIFAKE(5, synthetic_tasks=2, images_per_class=100, seed=0)
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [180] * 5
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [2000] * 5
    assert [len(experience.dataset) for experience in benchmark.test_synthetic_stream] == [800] * 5
    assert 0.3 < benchmark.train_stream[0].dataset[0][0].mean() < 0.7
