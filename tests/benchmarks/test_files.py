"""Local data sets: where they are looked for, and what is said about missing and wrong files."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST

from clpack.benchmarks import files
from clpack.benchmarks.files import (
    DataFile,
    DataSet,
    check_files,
    describe_data_sets,
    prepare_data_set,
    resolve_dataset_root,
    verify_data_sets,
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset root with the two files of a data set called Letters, which comes as one archive."""
    content = {"letters/a": b"abc", "letters/b": b""}
    for path, data in content.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    _describe(monkeypatch, "Letters", content, archive="letters.tar.gz")
    return tmp_path


def _describe(
    monkeypatch: pytest.MonkeyPatch, name: str, content: dict[str, bytes], *, archive: str | None = None
) -> None:
    """Makes a data set with this content, from one archive or else from a ``.gz`` beside each file."""
    described = tuple(
        DataFile(path, hashlib.md5(data).hexdigest(), archive or f"{path}.gz") for path, data in content.items()
    )
    monkeypatch.setitem(files._DATA_SETS, name, DataSet(name, f"https://example.org/{name}", described))


def _tar(path: Path, content: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)


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
    assert "Get letters.tar.gz from https://example.org/Letters and run" in message
    assert f"\n  clpack data prepare Letters --dataset-root {root} --from FOLDER_OF_THE_DOWNLOAD\n" in message
    assert "CLPACK_DATA" in message


def test_wrong_file_is_an_error_of_value(root: Path) -> None:
    (root / "letters/a").write_bytes(b"abd")
    with pytest.raises(ValueError, match=r"letters/a: wrong content, MD5 4911e516e5aa21d327512e0c8b197616 \(3 bytes\)"):
        check_files("Letters", root)


def test_folder_in_place_of_a_file(root: Path) -> None:
    (root / "letters/a").unlink()
    (root / "letters/a").mkdir()
    assert [s.problem for s in verify_data_sets(root, ["Letters"])] == ["not a file", None]


def test_folder_without_a_checksum(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "miniImageNet" / split).mkdir(parents=True)
    problems = {s.path.name: s.problem for s in verify_data_sets(tmp_path, ["miniImageNet-images"])}
    assert problems == {"train": None, "test": None, "val": "missing"}
    with pytest.raises(FileNotFoundError, match="val: missing\nclpack downloads nothing by itself. Get it from https"):
        check_files("miniImageNet-images", tmp_path)


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
    assert ours.archives == [theirs.filename]


def test_archives_of_mnist_are_those_of_torchvision() -> None:
    for theirs in (MNIST, FashionMNIST):
        ours = next(data_set for data_set in describe_data_sets() if data_set.name == theirs.__name__)
        assert sorted(ours.archives) == sorted(name for name, _ in theirs.resources)
        assert ours.url in theirs.mirrors


def _content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class TestPrepare:
    @pytest.fixture
    def new_root(self, root: Path, tmp_path: Path) -> Path:
        """A root without files, not made yet."""
        return tmp_path / "new"

    @pytest.fixture
    def numbers(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
        """The content of a data set called Numbers, each file of which is downloaded for itself."""
        content = {"Numbers/raw/one": b"1" * 100_000, "Numbers/raw/two": b"2"}
        _describe(monkeypatch, "Numbers", content)
        return content

    def test_files_of_a_folder(self, numbers: dict[str, bytes], tmp_path: Path) -> None:
        downloads = tmp_path / "downloads"
        downloads.mkdir()
        for path, data in {**numbers, "other": b""}.items():
            (downloads / f"{Path(path).name}.gz").write_bytes(gzip.compress(data))
        root = tmp_path / "root"
        assert prepare_data_set("Numbers", [downloads], root) == [root / path for path in numbers]
        assert _content(root) == numbers
        assert check_files("Numbers", root) == root

    def test_files_named_one_by_one(self, numbers: dict[str, bytes], tmp_path: Path) -> None:
        for path, data in numbers.items():
            (tmp_path / f"{Path(path).name}.gz").write_bytes(gzip.compress(data))
        root = tmp_path / "root"
        with pytest.raises(
            FileNotFoundError,
            match=f"without {root}/Numbers/raw/two.gz: get what is missing from https://example.org/Numbers and put it",
        ):
            prepare_data_set("Numbers", [tmp_path / "one.gz"], root)
        assert not root.exists()
        prepare_data_set("Numbers", [tmp_path / "two.gz", tmp_path / "one.gz"], root)
        assert _content(root) == numbers

    def test_archives_in_their_places(self, numbers: dict[str, bytes], tmp_path: Path) -> None:
        (tmp_path / "Numbers/raw").mkdir(parents=True)
        for path, data in numbers.items():
            (tmp_path / f"{path}.gz").write_bytes(gzip.compress(data))
        assert prepare_data_set("Numbers", dataset_root=tmp_path) == [tmp_path / path for path in numbers]

    def test_only_what_is_missing_or_wrong_is_unpacked(self, numbers: dict[str, bytes], tmp_path: Path) -> None:
        (tmp_path / "Numbers/raw").mkdir(parents=True)
        (tmp_path / "Numbers/raw/one").write_bytes(numbers["Numbers/raw/one"])
        (tmp_path / "Numbers/raw/two").write_bytes(b"3")
        (tmp_path / "two.gz").write_bytes(gzip.compress(b"2"))
        assert prepare_data_set("Numbers", [tmp_path], tmp_path) == [tmp_path / "Numbers/raw/two"]
        assert prepare_data_set("Numbers", dataset_root=tmp_path) == []

    def test_a_file_that_is_its_own_archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _describe(monkeypatch, "Images", {"images/all.zip": b"PK"}, archive="images/all.zip")
        (tmp_path / "all.zip").write_bytes(b"PK")
        root = tmp_path / "root"
        assert prepare_data_set("Images", [tmp_path], root) == [root / "images/all.zip"]
        assert _content(root) == {"images/all.zip": b"PK"}
        assert prepare_data_set("Images", dataset_root=root) == []

    def test_a_compressed_tar_that_is_read_as_a_tar(self, tmp_path: Path) -> None:
        _tar(tmp_path / "notMNIST_small.tar.gz", {"notMNIST_small/A/a.png": b"image"})
        root = tmp_path / "root"
        assert prepare_data_set("notMNIST", [tmp_path], root) == [root / "notMNIST/notMNIST_small.tar"]
        with tarfile.open(root / "notMNIST/notMNIST_small.tar", "r:") as archive:
            assert archive.getnames() == ["notMNIST_small/A/a.png"]
        assert check_files("notMNIST", root) == root

    def test_what_is_converted_or_unpacked_by_hand_is_not_unpacked(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="genimage is converted, not unpacked: unpack the archives"):
            prepare_data_set("genimage", dataset_root=tmp_path)
        with pytest.raises(ValueError, match=r"CUB200 is unpacked by hand: unpack CUB_200_2011.tgz into the dataset"):
            prepare_data_set("CUB200", dataset_root=tmp_path)

    def test_only_the_known_members_of_an_archive(self, new_root: Path, tmp_path: Path) -> None:
        content = {"letters/b": b"", "letters/c": b"c", "../escaped": b"!", "/absolute": b"!", "letters/a": b"abc"}
        _tar(tmp_path / "letters.tar.gz", content, {"letters/link": "../../escaped"})
        assert prepare_data_set("Letters", [tmp_path / "letters.tar.gz"], new_root) == [
            new_root / "letters/b",
            new_root / "letters/a",
        ]
        assert _content(new_root) == {"letters/a": b"abc", "letters/b": b""}
        assert not (tmp_path / "escaped").exists()

    def test_a_link_is_no_file(self, new_root: Path, tmp_path: Path) -> None:
        _tar(tmp_path / "letters.tar.gz", {"letters/b": b""}, {"letters/a": "/etc/hostname"})
        with pytest.raises(
            ValueError, match=r"letters.tar.gz holds no letters/a; get it again from https://example.org"
        ):
            prepare_data_set("Letters", [tmp_path], new_root)
        assert _content(new_root) == {"letters/b": b""}

    def test_other_content(self, new_root: Path, tmp_path: Path) -> None:
        _tar(tmp_path / "letters.tar.gz", {"letters/a": b"abd", "letters/b": b""})
        with pytest.raises(
            ValueError,
            match=r"does not give the right letters/a: wrong content, MD5 4911e516\w+ \(3 bytes\) where 9001509",
        ):
            prepare_data_set("Letters", [tmp_path], new_root)
        assert _content(new_root) == {}

    @pytest.mark.parametrize("name", ["Letters", "Numbers"])
    @pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"<html>", lambda data: b""])
    def test_damaged_archive(
        self,
        name: str,
        damage: Callable[[bytes], bytes],
        numbers: dict[str, bytes],
        new_root: Path,
        tmp_path: Path,
    ) -> None:
        _tar(tmp_path / "letters.tar.gz", {"letters/a": bytes(range(256)) * 100, "letters/b": b""})
        (tmp_path / "two.gz").write_bytes(gzip.compress(b"2"))
        (tmp_path / "one.gz").write_bytes(gzip.compress(numbers["Numbers/raw/one"]))
        broken = tmp_path / ("letters.tar.gz" if name == "Letters" else "one.gz")
        broken.write_bytes(damage(broken.read_bytes()))
        with pytest.raises(ValueError, match=f"{broken} (is damaged|does not give the right)"):
            prepare_data_set(name, [tmp_path], new_root)
        assert _content(new_root) == {}

    def test_bad_sources(self, new_root: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=f"there is no file or folder {tmp_path}/nowhere"):
            prepare_data_set("Letters", [tmp_path / "nowhere"], new_root)
        (tmp_path / "letters.zip").write_bytes(b"")
        with pytest.raises(
            ValueError, match=r"letters.zip is no archive of Letters: expected letters.tar.gz, or their f"
        ):
            prepare_data_set("Letters", [tmp_path / "letters.zip"], new_root)
        with pytest.raises(ValueError, match="unknown data set 'letter': did you mean 'Letters'"):
            prepare_data_set("letter", [], new_root)
