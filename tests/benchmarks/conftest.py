"""Small forged data sets that stand in for the real ones."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision

from clpack.benchmarks import files
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
