"""Split MedMNIST from forged files of the official form, and from the real ones where they are."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clpack.benchmarks import SplitMedMNIST, check, describe, describe_data_sets, get
from clpack.benchmarks._medmnist_sets import SETS, find_set
from clpack.strategies import ExperienceLoader

from .conftest import _put

PER_CLASS = {"train": 4, "val": 2, "test": 3}


def forge(monkeypatch: pytest.MonkeyPatch, root: Path, name: str, size: int = 28) -> None:
    """Writes a file whose images show ten times their label, with one white pixel in the corner at the top left."""
    data = find_set(name, size)
    arrays = {}
    for part, copies in PER_CLASS.items():
        labels = np.tile(np.arange(data.n_classes, dtype=np.uint8), copies)
        shape = (len(labels), size, size, 3) if data.channels == 3 else (len(labels), size, size)
        images = np.broadcast_to(10 * labels.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
        images[:, 0, 0] = 255
        arrays |= {f"{part}_images": images, f"{part}_labels": labels[:, None]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    _put(monkeypatch, root, data.data_set(size), {data.file(size): buffer.getvalue()})


def classes(benchmark: Any) -> list[list[int]]:
    found = [[sorted(e.classes_in_this_experience) for e in stream] for stream in benchmark.streams.values()]
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("bloodmnist", [2, 2, 2, 2]),
        ("pathmnist", [3, 2, 2, 2]),
        ("organamnist", [3, 3, 3, 2]),
        ("tissuemnist", [2, 2, 2, 2]),
        ("wbc4", [1, 1, 1, 1]),
    ],
)
def test_default_split(name: str, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(monkeypatch, tmp_path, name)
    benchmark = SplitMedMNIST(name, dataset_root=tmp_path)
    info = describe("SplitMedMNIST", name=name)
    assert [len(share) for share in classes(benchmark)] == sizes
    assert list(itertools.chain(*classes(benchmark))) == list(range(info.n_classes))
    for stream, part in (("train", "train"), ("valid", "val"), ("test", "test")):
        for experience, size in zip(benchmark.streams[stream], sizes, strict=True):
            assert experience.task_labels == [0]
            assert len(experience.dataset) == size * PER_CLASS[part]
            for image, label, _ in experience.dataset:
                assert image.shape == info.image_shape
                assert image.dtype == torch.float32
                assert torch.equal(image[:, 2, 2], torch.ones(len(image)))
                assert torch.equal(image[:, 3:30, 3:30], torch.full((len(image), 27, 27), 10 * label / 255))
                assert image.sum() == pytest.approx(len(image) * (783 * 10 * label / 255 + 1), rel=1e-5)  # black frame


def test_larger_images_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(monkeypatch, tmp_path, "breastmnist", 64)
    benchmark = SplitMedMNIST("BreastMNIST", 2, size=64, return_task_id=True, dataset_root=tmp_path)
    image, label, task = benchmark.test_stream[1].dataset[0]
    assert image.shape == describe("SplitMedMNIST", name="breastmnist", size=64).image_shape == (1, 64, 64)
    assert (label, task) == (1, 1)
    assert float(image[0, 0, 0]) == 1
    assert "BreastMNIST of MedMNIST v2, 64 x 64 pixels" in benchmark.data_description


def test_class_order_and_numbering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(monkeypatch, tmp_path, "dermamnist")
    order: Any = [6, 0, 3, 5, 1]
    options: dict[str, Any] = {"fixed_class_order": order, "dataset_root": tmp_path}
    assert classes(SplitMedMNIST("dermamnist", 2, **options)) == [[0, 3, 6], [1, 5]]
    for numbering, expected in (("in_each_exp", [[0, 1, 2], [0, 1]]), ("from_first_exp", [[0, 1, 2], [3, 4]])):
        benchmark = SplitMedMNIST("dermamnist", 2, **options, **{f"class_ids_from_zero_{numbering}": True})
        assert classes(benchmark) == expected
        shown = {
            (label, round(float(image[0, 9, 9]) * 25.5)) for e in benchmark.test_stream for image, label, _ in e.dataset
        }
        assert shown == set(zip(itertools.chain(*expected), order, strict=True))

    state = torch.get_rng_state()
    shuffled = [classes(SplitMedMNIST("dermamnist", 3, shuffle=True, seed=s, dataset_root=tmp_path)) for s in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_transforms_and_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(monkeypatch, tmp_path, "bloodmnist")
    benchmark = SplitMedMNIST(
        "bloodmnist",
        train_transform=lambda image: image + 1,
        eval_transform=lambda image: -image,
        dataset_root=tmp_path,
    )
    first = {name: float(stream[1].dataset[0][0][0, 9, 9]) for name, stream in benchmark.streams.items()}
    assert first == pytest.approx({"train": 1 + 20 / 255, "valid": -20 / 255, "test": -20 / 255})
    dataset = SplitMedMNIST("bloodmnist", dataset_root=tmp_path).train_stream[0].dataset
    assert ExperienceLoader(torch.utils.data.DataLoader(dataset, collate_fn=dataset.collate_fn)).gathers


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "bloodmist"}, ValueError, "unknown MedMNIST set 'bloodmist': did you mean 'bloodmnist'"),
        ({"name": "chestmnist"}, ValueError, "one label for each image, got 'chestmnist', whose X-rays show several"),
        ({"name": 3}, TypeError, "name must be the name of a set, such as 'bloodmnist', got 3"),
        ({"name": "bloodmnist", "size": 32}, ValueError, "one of 28, 64, 128, 224 for bloodmnist, got 32"),
        ({"name": "wbc4", "size": 64}, ValueError, "size must be one of 28 for wbc4, got 64"),
        ({"name": "octmnist", "n_experiences": 5}, ValueError, "at most 4, the number of classes, got 5"),
        ({"name": "octmnist", "n_experiences": 0}, ValueError, "at least 1, got 0"),
        ({"name": "octmnist", "fixed_class_order": [4]}, ValueError, r"classes 0\.\.3, got the unknown \[4\]"),
        (
            {
                "name": "octmnist",
                "class_ids_from_zero_in_each_exp": True,
                "class_ids_from_zero_from_first_exp": True,
            },
            ValueError,
            "mutually exclusive",
        ),
    ],
)
def test_arguments_are_checked_before_the_files(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    for attempt in (check, get, lambda stream, **given: SplitMedMNIST(**given)):
        with pytest.raises(error, match=message):
            attempt("SplitMedMNIST", **arguments, dataset_root=tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"MedMNIST/organcmnist_128.npz: missing\n.*zenodo.org/records/1051965"):
        SplitMedMNIST("organcmnist", size=128, dataset_root=tmp_path)


def test_a_file_with_objects_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, train_images=np.array([print], dtype=object))
    _put(monkeypatch, tmp_path, "wbc4", {find_set("wbc4", 28).file(28): buffer.getvalue()})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        SplitMedMNIST("wbc4", dataset_root=tmp_path)


def test_every_set_has_a_data_set() -> None:
    files = {data_set.name: data_set.files for data_set in describe_data_sets()}
    for name, each in SETS.items():
        assert files[name][0].md5 == each.md5[28]
        assert all(len(digest) == 32 for digest in each.md5.values())
        assert describe("SplitMedMNIST", name=name).data_sets == (name,)
    assert files["pathmnist_224"][0].path == "MedMNIST/pathmnist_224.npz"
    assert len({digest for each in SETS.values() for digest in each.md5.values()}) == 46


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
@pytest.mark.parametrize(
    ("name", "n_classes", "train", "test", "says"),
    [
        ("wbc4", 4, [1500, 1500], [500, 500], "not MedMNIST"),
        ("pneumoniamnist_partial", 2, [388, 3494], [234, 390], "3882 of its 4708 training images"),
    ],
)
def test_real_data(name: str, n_classes: int, train: list[int], test: list[int], says: str) -> None:
    benchmark = SplitMedMNIST(name, 2)
    assert [len(experience.dataset) for experience in benchmark.train_stream] == train
    assert [len(experience.dataset) for experience in benchmark.test_stream] == test
    assert list(itertools.chain(*classes(benchmark))) == list(range(n_classes))
    assert 0.2 < float(benchmark.train_stream[0].dataset[0][0].mean()) < 0.8
    assert says in benchmark.data_description
