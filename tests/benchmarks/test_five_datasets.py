"""Five data sets one after the other, from forged files, and four of them from the real ones where they are."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST, SVHN
from torchvision.transforms import Compose, Grayscale, Resize, ToTensor

from clpack.benchmarks import FiveDatasets, _readers, check, describe, describe_data_sets, get
from clpack.strategies import ExperienceLoader

from .conftest import forge_cifar10_jpeg, forge_svhn

LETTERS = "ABCDEFGHIJ"


def png(image: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_notmnist(root: Path, content: dict[str, bytes]) -> None:
    (root / "notMNIST").mkdir(exist_ok=True)
    with tarfile.open(root / "notMNIST/notMNIST_small.tar", "w") as archive:
        folder = tarfile.TarInfo("notMNIST_small")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in content.items():
            member = tarfile.TarInfo(f"notMNIST_small/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def letters() -> dict[str, bytes]:
    """30 images, three of each letter, whose pixels are all 20 times the label; and two files that are no images."""
    images = {
        f"{letter}/{name}.png": png(np.full((28, 28), 20 * label, np.uint8))
        for label, letter in enumerate(LETTERS)
        for name in ("z", "a b", "=c")
    }
    return {**images, "A/RGVtb2NyYXRpY2E=.png": b"", "F/Q3Jvc3Nib2xk.png": images["F/z.png"][:40]}


@pytest.fixture
def five(root: Path, letters: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset root with all members."""
    forge_svhn(monkeypatch, root)
    write_notmnist(root, letters)
    monkeypatch.setattr(_readers, "_NOTMNIST_IMAGES", 30)
    forge_cifar10_jpeg(monkeypatch, root)
    return root


def test_order_labels_and_sizes(five: Path) -> None:
    benchmark = FiveDatasets(dataset_root=five)
    for name, sizes in (("train", [30, 30, 30, 27, 30]), ("test", [10, 10, 10, 3, 10])):
        stream = benchmark.streams[name]
        assert [len(experience.dataset) for experience in stream] == sizes
        for task, experience in enumerate(stream):
            assert experience.task_labels == [task]
            assert set(experience.classes_in_this_experience) <= set(range(10 * task, 10 * task + 10))
            for image, *_ in experience.dataset:
                assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
                assert 0 <= image.min() <= image.max() <= 1
    assert benchmark.data_description == (
        "CIFAR-10, MNIST, SVHN, notMNIST-small (2 unreadable files skipped), Fashion-MNIST"
    )
    assert describe("FiveDatasets").n_classes == 50


def test_pixels_are_those_of_the_authors_transforms(five: Path) -> None:
    stream = FiveDatasets(dataset_root=five).train_stream
    grey = Compose([Resize(32), Grayscale(3), ToTensor()])
    theirs: tuple[Any, ...] = (
        CIFAR10(five, transform=ToTensor()),
        MNIST(five, transform=grey),
        SVHN(str(five / "SVHN"), transform=ToTensor()),
    )
    for task, expected in enumerate(theirs):
        ours = stream[task].dataset
        for index in (0, 9, 29):
            assert torch.equal(ours[index][0], expected[index][0])
            assert ours[index][1] == 10 * task + expected[index][1]
    for image, label, _ in stream[3].dataset:
        assert torch.equal(image, torch.full((3, 32, 32), 20 * (label - 30) / 255))


def test_notmnist_is_divided_once_and_for_all(five: Path, letters: dict[str, bytes]) -> None:
    def content(seed: int) -> list[list[int]]:
        streams = FiveDatasets(["notmnist"], seed=seed, dataset_root=five).streams
        return [[label for _, label, _ in stream[0].dataset] for stream in streams.values()]

    train, test = content(seed=1)
    assert sorted(train + test) == [label for label in range(10) for _ in range(3)]
    write_notmnist(five, dict(reversed(letters.items())))  # the order in the tar plays no part
    assert content(seed=2) == [train, test]
    write_notmnist(five, {name: data for name, data in letters.items() if name != "B/z.png"})
    with pytest.raises(ValueError, match=r"must hold the 30 images of notMNIST-small, got 29 and 2 files that cannot"):
        FiveDatasets(["notmnist"], dataset_root=five)
    (five / "notMNIST/notMNIST_small.tar").write_bytes(b"no tar")
    with pytest.raises(ValueError, match="notMNIST_small.tar is damaged"):
        FiveDatasets(["notmnist"], dataset_root=five)


def test_members_left_out_and_replaced(five: Path) -> None:
    members = ["cifar10_jpeg", "mnist", "notmnist", "fashionmnist"]
    benchmark = FiveDatasets(members, dataset_root=five, return_task_id=False)
    assert [min(experience.classes_in_this_experience) for experience in benchmark.train_stream] == [0, 10, 20, 30]
    assert [experience.task_labels for experience in benchmark.test_stream] == [[0]] * 4
    assert benchmark.data_description == (
        "CIFAR-10 (JPEG), MNIST, notMNIST-small (2 unreadable files skipped), Fashion-MNIST; other than in the paper, "
        "without CIFAR-10, SVHN"
    )
    image, label, _ = benchmark.train_stream[0].dataset[3 * 4]
    assert label == 4
    torch.testing.assert_close(image.mean((1, 2)) * 255, torch.tensor([100.0, 40, 20]), atol=3, rtol=0)
    from_zero = FiveDatasets(members[2:], class_ids_from_zero_in_each_exp=True, dataset_root=five)
    assert [set(experience.classes_in_this_experience) for experience in from_zero.train_stream] == [set(range(10))] * 2
    info = describe("FiveDatasets", members=members)
    assert info.data_sets == ("CIFAR10-JPEG", "MNIST", "notMNIST", "FashionMNIST")
    assert info.n_classes == 40


def test_everything_missing_is_named_at_once(five: Path) -> None:
    (five / "SVHN/test_32x32.mat").unlink()
    (five / "cifar-10-batches-py/test_batch").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        FiveDatasets(dataset_root=five)
    message = str(caught.value)
    assert message.startswith("FiveDatasets cannot be opened: cifar10, svhn missing or wrong.")
    assert "test_32x32.mat: missing" in message
    assert "cifar-10-batches-py/test_batch: missing" in message
    assert message.endswith(
        "members=['mnist', 'notmnist', 'fashionmnist'] does without\n"
        "'cifar10_jpeg' in the place of 'cifar10' takes compressed images"
    )


def test_batches_are_gathered(five: Path) -> None:
    for experience in FiveDatasets(dataset_root=five).train_stream:
        dataset = experience.dataset
        loader = ExperienceLoader(torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=dataset.collate_fn))
        assert loader.gathers


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"members": ["mnist", "cifar"]}, ValueError, "unknown member 'cifar': did you mean 'cifar10'"),
        ({"members": ["mnist", "mnist"]}, ValueError, r"each once, got \['mnist', 'mnist'\]"),
        ({"members": []}, ValueError, r"at least one data set, and each once, got \[\]"),
        ({"members": "mnist"}, TypeError, "members must be a list of data sets, such as"),
        ({"seed": -1}, ValueError, "seed must not be negative"),
    ],
)
def test_arguments_are_checked_before_the_files(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    for attempt in (check, get, lambda name, **given: FiveDatasets(**given)):
        with pytest.raises(error, match=message):
            attempt("FiveDatasets", **arguments, dataset_root=tmp_path)


def test_checksums_of_svhn_are_those_of_torchvision() -> None:
    ours = next(data_set for data_set in describe_data_sets() if data_set.name == "SVHN")
    assert {(Path(file.path).name, file.md5) for file in ours.files} == {
        (name, md5) for part in ("train", "test") for _, name, md5 in [SVHN.split_list[part]]
    }


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_real_data() -> None:
    benchmark = FiveDatasets(["notmnist", "fashionmnist"])
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [16852, 60000]
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [1872, 10000]
    assert np.bincount(list(benchmark.test_stream[0].dataset.targets)).tolist() == [
        195,
        186,
        179,
        208,
        176,
        202,
        185,
        190,
        163,
        188,
    ]
    assert "0 unreadable files skipped" in benchmark.data_description
