"""Small forged data sets that stand in for the real ones."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image

from clpack.benchmarks import files, tiny_imagenet
from clpack.benchmarks._readers import CIFAR10_CLASSES
from clpack.benchmarks.files import DataFile, DataSet


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a stream tried to download")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def _put(monkeypatch: pytest.MonkeyPatch, root: Path, name: str, content: dict[str, bytes]) -> dict[str, str]:
    """Writes the files of a forged data set and makes its checksums the expected ones, which it returns."""
    md5 = {path: hashlib.md5(data).hexdigest() for path, data in content.items()}
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    forged = DataSet(name, "https://example.org", tuple(DataFile(*item, f"{name}.zip") for item in md5.items()))
    monkeypatch.setitem(files._DATA_SETS, name, forged)
    return md5


def forge_cifar10_jpeg(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Writes an archive of 3 training and 1 test images per class, whose color tells the class and the number."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        for label, name in reversed(list(enumerate(CIFAR10_CLASSES))):
            for part, numbers in (("train", (2, 0, 1)), ("test", (0,))):
                for number in numbers:
                    image = io.BytesIO()
                    Image.new("RGB", (32, 32), (20 * label + 20, 40, 20 * number + 20)).save(image, "JPEG")
                    members.writestr(f"{part}/{name}/{number:04}.jpg", image.getvalue())
    _put(monkeypatch, root, "CIFAR10-JPEG", {"cifar10-jpeg/cifar10-jpeg.zip": archive.getvalue()})


def forge_svhn(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Writes 3 training and 1 test images per class, of random pixels; label 10 stands for the digit 0."""
    rng, content = np.random.default_rng(1), {}
    for part, copies in (("train", 3), ("test", 1)):
        buffer = io.BytesIO()
        labels = np.tile(np.arange(1, 11, dtype=np.uint8), copies)
        images = rng.integers(0, 256, (32, 32, 3, len(labels)), dtype=np.uint8)
        scipy.io.savemat(buffer, {"X": images, "y": labels[:, None]})
        content[f"SVHN/{part}_32x32.mat"] = buffer.getvalue()
    md5 = _put(monkeypatch, root, "SVHN", content)
    split_list = {part: ["", f"{part}_32x32.mat", md5[f"SVHN/{part}_32x32.mat"]] for part in ("train", "test")}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)  # torchvision looks once more


def forge_tiny_imagenet(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Writes both archives with 2 training and 1 test images of 5 classes, whose color tells the class and the number.

    The part with fewer classes is then that of the first 4 by name.
    """

    def jpeg(label: int, number: int, mode: str = "RGB") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (40 * label + 20, 40 * number + 20, 128)).convert(mode).save(buffer, "JPEG")
        return buffer.getvalue()

    monkeypatch.setattr(tiny_imagenet, "_N_CHOSEN", 4)
    monkeypatch.setattr(tiny_imagenet, "_N_CLASSES", 5)
    top, classes = "tiny-imagenet-200", ["n05", "n01", "n04", "n02", "n03"]
    archive, annotations = io.BytesIO(), []
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr(f"{top}/wnids.txt", "\n".join(classes))
        for name in classes:
            label = int(name[1:]) - 1
            for number in (1, 0):
                members.writestr(f"{top}/train/{name}/images/{name}_{number}.JPEG", jpeg(label, number))
            annotations.append(f"val_{label}.JPEG\t{name}\t0\t0\t9\t9")
            members.writestr(f"{top}/val/images/val_{label}.JPEG", jpeg(label, 2, "L" if label == 3 else "RGB"))
        members.writestr(f"{top}/val/val_annotations.txt", "\n".join(annotations))
    path = "tiny-imagenet-200-subset/tiny-imagenet-200-subset.zip"
    _put(monkeypatch, root, "TinyImageNet-subset", {path: archive.getvalue()})
    _put(monkeypatch, root, "TinyImageNet", {"tiny-imagenet-200.zip": archive.getvalue()})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset root with forged MNIST, FashionMNIST, CIFAR10 and CIFAR100: 3 training and 1 test images per class."""
    rng = np.random.default_rng(0)

    def idx(array: np.ndarray[Any, Any]) -> bytes:
        header = [0x800 + array.ndim, *array.shape]
        return np.array(header, dtype=">i4").tobytes() + array.tobytes()

    for name in ("MNIST", "FashionMNIST"):
        content = {}
        for part, copies in (("train", 3), ("t10k", 1)):
            labels = np.tile(np.arange(10, dtype=np.uint8), copies)
            images = rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
            content[f"{name}/raw/{part}-images-idx3-ubyte"] = idx(images)
            content[f"{name}/raw/{part}-labels-idx1-ubyte"] = idx(labels)
        _put(monkeypatch, tmp_path, name, content)

    for theirs, n_classes, (train, test, meta), kind in (
        (torchvision.datasets.CIFAR10, 10, ("data_batch_1", "test_batch", "batches.meta"), ""),
        (torchvision.datasets.CIFAR100, 100, ("train", "test", "meta"), "fine_"),
    ):
        folder = theirs.base_folder
        content = {f"{folder}/{meta}": pickle.dumps({f"{kind}label_names": [*map(str, range(n_classes))]})}
        for part, copies in ((train, 3), (test, 1)):
            data = rng.integers(0, 256, (n_classes * copies, 3072), dtype=np.uint8)
            content[f"{folder}/{part}"] = pickle.dumps({"data": data, f"{kind}labels": [*range(n_classes)] * copies})
        md5 = _put(monkeypatch, tmp_path, theirs.__name__, content)
        # torchvision looks at the checksums once more
        monkeypatch.setattr(theirs, "train_list", [[train, md5[f"{folder}/{train}"]]])
        monkeypatch.setattr(theirs, "test_list", [[test, md5[f"{folder}/{test}"]]])
        monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": md5[f"{folder}/{meta}"]})
    return tmp_path
