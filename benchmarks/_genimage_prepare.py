"""Converting a GenImage download into arrays.

The images of one generator, task, split and form are converted together and written one after the other as they come
from the processes that decode them. Their manifest gets its name last: what has no manifest is not read, and is done
again by the next call, while what has one that fits the download is not. The memory in use does not grow with the
data, but for the records of the files of one folder at a time, some 200 bytes for each.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image

from clpack.files import atomic_path, write_text

from ._genimage_classes import CLASSES_PER_TASK, GENERATORS, Form, Split, class_set
from ._genimage_prepared import ARRAYS, PARTS, left_over, read_manifest, sha256, size_problem
from ._genimage_raw import FORMS, SIDE, SPLITS, UNREADABLE, RawFile, list_raw, raw_folder, to_pixels

__all__ = ["GenImageReport", "prepare_genimage"]

_CHUNK = 128  # images that a process decodes at a time: with fewer, the main process takes its turn too often
_IMAGE_BYTES = 3 * SIDE * SIDE
_FORMAT = 1


class Skipped(NamedTuple):
    """A file that was not converted.

    Attributes:
        path: where it is, relative to the download; bytes that are no UTF-8 are written as ``\\xff``.
        reason: why.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class GenImageReport:
    """What became of a download.

    Attributes:
        folder: where the arrays are.
        images: number of images for each generator, split and form, over all tasks.
        missing: the classes without a single image: generator, task, split, form and wnid.
        skipped: the files that were not converted.
        absent: the generators that are not in the download.
        unused: the folders of the download that belong to no generator, such as one with a misspelt name.
    """

    folder: Path
    images: dict[tuple[str, Split, Form], int]
    missing: list[tuple[str, int, Split, Form, str]]
    skipped: list[Skipped]
    absent: list[str]
    unused: list[str]

    def __str__(self) -> str:
        counts = [f"{generator} {split}/{form}: {n} images" for (generator, split, form), n in self.images.items()]
        missing = []
        for (generator, task, split, form), entries in itertools.groupby(self.missing, key=lambda entry: entry[:4]):
            wnids = [entry[4] for entry in entries]
            some = f"{', '.join(wnids[:3])}{', ...' if len(wnids) > 3 else ''}"
            missing.append(f"{generator} {split}/{form}: no image of {len(wnids)} classes of task {task}, {some}")
        absent = [f"not in the download: {', '.join(self.absent)}"] if self.absent else []
        unused = [f"not used: {folder}, which belongs to no generator" for folder in self.unused]
        skipped = [f"skipped {path}: {reason}" for path, reason in self.skipped]
        summary = f"{sum(self.images.values())} images in {self.folder}, {len(self.skipped)} files skipped"
        return "\n".join([*counts, *missing, *absent, *unused, *skipped, summary])


class _Part(NamedTuple):
    """Images that are converted together."""

    source: Path
    target: Path
    generator: str
    task: int
    split: Split
    form: Form
    fingerprint: str  # SHA-256 of the records of the files: tells whether the download changed


class _Decoded(NamedTuple):
    """What a process made of a chunk: the images that could be decoded, their labels, and the other files."""

    images: NDArray[np.uint8]
    labels: list[int]
    skipped: list[tuple[str, str]]
    unreadable: bool  # whether a file was skipped that may be as it should, but could not be read


def prepare_genimage(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> GenImageReport:
    """Converts a GenImage download into arrays of 64x64 pixels, for all generators and tasks found in it.

    Of each image, the pixels are those that the authors of the streams made. Files that are damaged, empty or have a
    name that GenImage does not have are skipped and reported, and so are those that cannot be read, which the next call
    tries again. A call that was interrupted is gone on with by the same call; what was converted already is kept if
    names, sizes and times of its files have not changed since. 600 of ImageNet's 1000 classes are used.

    Args:
        raw: the folder with the unpacked archives, e.g. ``raw/imagenet_ai_0508_adm/train/ai/*.PNG``.
        out: the dataset root; the arrays are written below its folder ``genimage``, 2.5 GB for each generator.
        jobs: number of processes that decode. Default: 1, this one.
        progress: called with the number of images done and to be done; None for nothing.

    Returns:
        What was converted, now and before. The files that were not are also in ``genimage/<generator>/skipped.csv``.

    Raises:
        FileNotFoundError: if ``raw`` or a folder of a generator in it is missing.
        ValueError: if ``jobs`` is not positive.
        OSError: if the disk is full or has an error, memory runs out, or another process prepares the same folder.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    raw, folder = Path(raw).expanduser(), Path(out).expanduser() / "genimage"
    sources = _sources(raw)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".prepare.lock", timeout=0):
            return _prepare(raw, folder, sources, jobs, progress)
    except Timeout:
        raise OSError(f"{folder} is being prepared by another process; wait for it") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"the disk of {folder} is full; what is finished is kept: free some space and run the same command again"
        ) from error


def _sources(raw: Path) -> dict[str, Path]:
    """Returns the folder of each generator in a download, after a check that they are whole."""
    if not raw.is_dir():
        raise FileNotFoundError(f"there is no folder {raw}")
    found = {generator: raw_folder(raw, generator) for generator in GENERATORS}
    sources = {generator: folder for generator, folder in found.items() if folder is not None}
    if not sources:
        archives = ", ".join(generator.archive for generator in GENERATORS.values())
        raise FileNotFoundError(f"{raw} holds no GenImage download: expected one or more of the folders {archives}")
    missing = [str(s / split / form) for s in sources.values() for split in SPLITS for form in FORMS]
    missing = [folder for folder in missing if not Path(folder).is_dir()]
    if missing:
        raise FileNotFoundError(f"the download is not complete, missing are the folders {', '.join(missing)}")
    return sources


def _prepare(
    raw: Path,
    folder: Path,
    sources: dict[str, Path],
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> GenImageReport:
    for path in left_over(folder):
        path.unlink()
    parts: dict[_Part, int] = {}
    skipped: dict[str, list[Skipped]] = {generator: [] for generator in sources}
    total = 0
    for generator, listing, strange in _listings(raw, folder, sources):
        parts |= {part: len(files) for part, files in listing.items()}
        skipped[generator] += strange
        total += sum(len(files) for part, files in listing.items() if not _is_finished(part))
    free = shutil.disk_usage(folder).free
    if total * _IMAGE_BYTES > free:
        raise OSError(
            f"{folder} needs {total * _IMAGE_BYTES / 1e9:.1f} GB for {total} images, but its disk has {free / 1e9:.1f}"
        )
    for generator in sources:
        base = folder / generator
        expected = [part.target for part, n in parts.items() if n and part.generator == generator]
        write_text(base / PARTS, json.dumps([target.relative_to(base).as_posix() for target in expected]) + "\n")
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    advance(0)
    if total:
        listings = (listing.items() for _, listing, _ in _listings(raw, folder, sources))
        unfinished = (item for item in itertools.chain.from_iterable(listings) if not _is_finished(item[0]))
        for part, results in itertools.groupby(_decode_all(unfinished, jobs), key=lambda result: result[0]):
            _write_part(part, (decoded for _, decoded in results), advance)
    report = _report(raw, folder, parts, skipped)
    for generator, files in skipped.items():
        rows = io.StringIO(newline="")
        csv.writer(rows).writerows([Skipped._fields, *sorted(files)])
        write_text(folder / generator / "skipped.csv", rows.getvalue())
    return report


def _listings(
    raw: Path, folder: Path, sources: dict[str, Path]
) -> Iterator[tuple[str, dict[_Part, list[RawFile]], list[Skipped]]]:
    """Yields the generator, the parts with their files, and all other entries of one folder of a download at a time."""
    for (generator, source), split, form in itertools.product(sources.items(), SPLITS, FORMS):
        tasks, strange = list_raw(source / split / form, generator, split, form)
        listing = {}
        for task, files in enumerate(tasks):
            target = folder / generator / str(task) / split / form
            fingerprint = hashlib.sha256(repr(files).encode()).hexdigest()
            listing[_Part(source / split / form, target, generator, task, split, form, fingerprint)] = files
        place = (source / split / form).relative_to(raw)
        yield generator, listing, [Skipped(str(place / _readable(name)), "no image of GenImage") for name in strange]


def _readable(name: str) -> str:
    """Returns a file name as text that can be written, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _manifest(part: _Part) -> dict[str, Any] | None:
    """Returns the manifest of a part, None if there is none that can be used."""
    try:
        return read_manifest(part.target)
    except (FileNotFoundError, ValueError):
        return None


def _is_finished(part: _Part) -> bool:
    manifest = _manifest(part)
    return (
        manifest is not None
        and (manifest.get("format"), manifest.get("source")) == (_FORMAT, part.fingerprint)
        and all(size_problem(part.target / name, file["bytes"]) is None for name, file in manifest["files"].items())
    )


def _decode_all(parts: Iterable[tuple[_Part, list[RawFile]]], jobs: int) -> Iterator[tuple[_Part, _Decoded]]:
    """Yields the decoded chunks of all parts in order."""
    chunks = (
        (part, (part.source, files[start : start + _CHUNK], part.form))
        for part, files in parts
        for start in range(0, len(files), _CHUNK)
    )
    if jobs == 1:
        yield from ((part, _decode(*chunk)) for part, chunk in chunks)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start_worker) as pool:
        waiting: deque[tuple[_Part, Future[_Decoded]]] = deque()
        try:
            for part, chunk in chunks:
                waiting.append((part, pool.submit(_decode, *chunk)))
                if len(waiting) == 4 * jobs:  # enough to keep all processes busy, few enough to keep in memory
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a process that decodes images ended, perhaps for lack of memory; a script that prepares with several "
                'processes must do so below a line if __name__ == "__main__":'
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends the others
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    main = parent_process()
    if main is not None:
        main.join()  # returns even if it is killed, when it can end nobody
        os._exit(1)


def _decode(folder: Path, files: list[RawFile], form: Form) -> _Decoded:
    images = np.empty((len(files), 3, SIDE, SIDE), np.uint8)
    labels: list[int] = []
    skipped: list[tuple[str, str]] = []
    unreadable = False
    for file in files:
        path = f"{folder}{os.sep}{file.name}"
        try:
            if not file.size:
                raise ValueError("empty file")
            with Image.open(path) as image:
                images[len(labels)] = to_pixels(image, form)
            labels.append(file.label)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, "not enough memory to decode it", path) from error
        except Exception as error:  # whatever a damaged file makes a decoder raise
            if isinstance(error, OSError) and error.errno is not None:
                if error.errno not in UNREADABLE:  # not the file is to blame, but the disk
                    raise OSError(error.errno, error.strerror, path) from error
                unreadable = True
            skipped.append((file.name, str(error).replace(f"{folder}{os.sep}", "")))
    return _Decoded(images[: len(labels)], labels, skipped, unreadable)


def _write_part(part: _Part, chunks: Iterable[_Decoded], advance: Callable[[int], None]) -> None:
    """Writes the arrays of a part while they come, then its manifest; until all is written, old ones stay."""
    labels: list[int] = []
    skipped: list[tuple[str, str]] = []
    unreadable = False
    with (  # they get their names in the reverse order
        atomic_path(part.target / "manifest.json") as manifest_path,
        atomic_path(part.target / "labels.npy") as labels_path,
        atomic_path(part.target / "images.npy") as images_path,
    ):
        with images_path.open("wb") as file:
            _write_header(file, 0)
            for chunk in chunks:
                file.write(chunk.images.data)
                labels += chunk.labels
                skipped += chunk.skipped
                unreadable |= chunk.unreadable
                advance(len(chunk.labels) + len(chunk.skipped))
            file.seek(0)
            _write_header(file, len(labels))
        with labels_path.open("wb") as file:
            np.save(file, np.array(labels, dtype=np.uint8))
        manifest = {
            "format": _FORMAT,
            **{name: getattr(part, name) for name in ("generator", "task", "split", "form")},
            "images": len(labels),
            "images_per_class": np.bincount(labels, minlength=CLASSES_PER_TASK).tolist(),
            "skipped": skipped,
            "source": None if unreadable else part.fingerprint,  # None: the next call tries again
            "files": {
                name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
                for name, path in zip(ARRAYS, (images_path, labels_path), strict=True)
            },
        }
        manifest_path.write_text(json.dumps(manifest) + "\n")
        for path in (images_path, labels_path, manifest_path):
            with path.open("rb+") as file:
                os.fsync(file.fileno())  # a full disk may show only now
        (part.target / "manifest.json").unlink(missing_ok=True)  # that of old arrays, which go now


def _write_header(file: IO[bytes], n: int) -> None:
    """Writes the header of an array of ``n`` images, which has the same length for every ``n``."""
    shape = (n, 3, SIDE, SIDE)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _report(raw: Path, folder: Path, parts: dict[_Part, int], skipped: dict[str, list[Skipped]]) -> GenImageReport:
    """Returns the report, and adds the files that were not converted to ``skipped``."""
    images: dict[tuple[str, Split, Form], int] = {}
    missing = []
    for part, n_files in parts.items():
        manifest = (_manifest(part) if n_files else None) or {"images_per_class": [0] * CLASSES_PER_TASK}
        counts = manifest["images_per_class"]
        kind = (part.generator, part.split, part.form)
        images[kind] = images.get(kind, 0) + sum(counts)
        classes = [entry.wnid for entry, n in zip(class_set(part.task), counts, strict=True) if not n]
        missing += [(part.generator, part.task, part.split, part.form, wnid) for wnid in classes]
        place = part.source.relative_to(raw)
        skipped[part.generator] += [Skipped(str(place / name), reason) for name, reason in manifest.get("skipped", [])]
    used = {part.source.relative_to(raw).parts[0] for part in parts}
    unused = [
        _readable(entry.name)
        for entry in raw.iterdir()
        if entry.is_dir() and entry.name not in used and not folder.resolve().is_relative_to(entry.resolve())
    ]
    return GenImageReport(
        folder,
        images,
        missing,
        sorted(itertools.chain.from_iterable(skipped.values())),
        [generator for generator in GENERATORS if generator not in skipped],
        sorted(unused),
    )
