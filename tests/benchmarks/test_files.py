"""Local data sets: where they are looked for, and what is said about missing and wrong files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from clpack.benchmarks import files
from clpack.benchmarks.files import (
    DataFile,
    DataSet,
    check_files,
    describe_data_sets,
    resolve_dataset_root,
    verify_data_sets,
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset root with the two files of a data set called Letters."""
    content = {"letters/a": b"abc", "letters/b": b""}
    for path, data in content.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    described = tuple(DataFile(path, hashlib.md5(data).hexdigest()) for path, data in content.items())
    letters = DataSet("Letters", "https://example.org/letters.zip", "Download and unzip it.", described)
    monkeypatch.setitem(files._DATA_SETS, "Letters", letters)
    return tmp_path


def test_dataset_root_argument_before_environment_before_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLPACK_DATA", "/data/from/environment")
    assert resolve_dataset_root("/data/from/argument") == Path("/data/from/argument")
    assert resolve_dataset_root("~/data") == tmp_path / "data"
    assert resolve_dataset_root() == Path("/data/from/environment")
    monkeypatch.setenv("CLPACK_DATA", "")
    assert resolve_dataset_root() == tmp_path / ".clpack"
    monkeypatch.delenv("CLPACK_DATA")
    assert resolve_dataset_root() == tmp_path / ".clpack"


def test_right_files_pass(root: Path) -> None:
    assert check_files("Letters", root) == root
    status = verify_data_sets(root, ["Letters"])
    assert [s.path for s in status] == [root / "letters/a", root / "letters/b"]
    assert [s.problem for s in status] == [None, None]
    assert all(s.ok for s in status)


def test_missing_file_is_named_with_source_and_place(root: Path) -> None:
    (root / "letters/b").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        check_files("Letters", root)
    message = str(caught.value)
    assert "1 of its 2 files" in message
    assert f"{root}/letters/b: missing" in message
    assert "letters/a" not in message
    assert "https://example.org/letters.zip\nDownload and unzip it." in message
    assert f"under the dataset root {root}" in message
    assert "CLPACK_DATA" in message


def test_wrong_file_is_an_error_of_value(root: Path) -> None:
    (root / "letters/a").write_bytes(b"abd")
    with pytest.raises(ValueError, match=r"letters/a: wrong content, MD5 4911e516e5aa21d327512e0c8b197616 \(3 bytes\)"):
        check_files("Letters", root)


def test_folder_in_place_of_a_file(root: Path) -> None:
    (root / "letters/a").unlink()
    (root / "letters/a").mkdir()
    assert [s.problem for s in verify_data_sets(root, ["Letters"])] == ["not a file", None]


def test_verify_looks_at_every_data_set_unless_told_which(root: Path) -> None:
    everything = verify_data_sets(root)
    assert len(everything) == sum(len(data_set.files) for data_set in describe_data_sets())
    assert {s.data_set for s in everything if s.ok} == {"Letters"}
    assert {s.problem for s in everything if s.data_set == "MNIST"} == {"missing"}
    with pytest.raises(ValueError, match="unknown data set 'mnist': did you mean 'MNIST'"):
        verify_data_sets(root, ["mnist"])


@pytest.mark.parametrize("theirs", [CIFAR10, CIFAR100])
def test_cifar_checksums_are_those_of_torchvision(theirs: type[CIFAR10]) -> None:
    expected = dict([*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])])
    ours = next(data_set for data_set in describe_data_sets() if data_set.name == theirs.__name__)
    assert {file.path: file.md5 for file in ours.files} == {
        f"{theirs.base_folder}/{name}": md5 for name, md5 in expected.items()
    }
    assert ours.url == theirs.url
