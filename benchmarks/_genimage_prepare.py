"""Converting a GenImage download into arrays.

The images of one generator, task, split and form are converted together, and the processes that decode them write them
to their places in one file, so that nothing but labels comes back to the main process. Their manifest gets its name
last: what has no manifest is not read, and is done again by the next call, while what has one that fits the download is
not. The memory in use does not grow with the data, but for the names of the files to convert, some 30 bytes for each.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from clpack.files import atomic_path, write_text

from ._genimage_classes import CLASSES_PER_TASK, GENERATORS, Form, Split, class_set
from ._genimage_decode import CHUNK, IMAGE_BYTES, SEPARATOR, Decoded, Part, decode, header, offset, record, start_worker
from ._genimage_prepared import ARRAYS, PARTS, left_over, read_manifest, sha256, size_problem
from ._genimage_raw import FORMS, SPLITS, UNREADABLE, RawFile, list_raw, raw_folder

__all__ = ["GenImageReport", "prepare_genimage"]

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
        unused_images: number of images of the classes that no task uses; they are not opened.
        absent: the generators that are not in the download.
        unused_folders: the folders of the download that belong to no generator, such as one with a misspelt name.
    """

    folder: Path
    images: dict[tuple[str, Split, Form], int]
    missing: list[tuple[str, int, Split, Form, str]]
    skipped: list[Skipped]
    unused_images: int
    absent: list[str]
    unused_folders: list[str]

    def __str__(self) -> str:
        counts = [f"{generator} {split}/{form}: {n} images" for (generator, split, form), n in self.images.items()]
        missing = []
        for (generator, task, split, form), entries in itertools.groupby(self.missing, key=lambda entry: entry[:4]):
            wnids = [entry[4] for entry in entries]
            some = f"{', '.join(wnids[:3])}{', ...' if len(wnids) > 3 else ''}"
            missing.append(f"{generator} {split}/{form}: no image of {len(wnids)} classes of task {task}, {some}")
        absent = [f"not in the download: {', '.join(self.absent)}"] if self.absent else []
        unused = [f"not used: {folder}, which belongs to no generator" for folder in self.unused_folders]
        if self.unused_images:
            unused.append(f"not used: images of classes that no task has ({self.unused_images})")
        skipped = [f"skipped {path}: {reason}" for path, reason in self.skipped]
        summary = f"{sum(self.images.values())} images in {self.folder}, {len(self.skipped)} files skipped"
        return "\n".join([*counts, *missing, *absent, *unused, *skipped, summary])


class _Names(NamedTuple):
    """The names of the files of a part in order, and their labels: as few objects as can be, there are many files."""

    joined: str
    labels: bytes


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
            _remove_left_over(folder)
            try:
                return _prepare(raw, folder, sources, jobs, progress)
            finally:
                _remove_left_over(folder)
    except Timeout:
        raise OSError(f"{folder} is being prepared by another process; wait for it") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"the disk of {folder} is full; what is finished is kept: free some space and run the same command again"
        ) from error


def _remove_left_over(folder: Path) -> None:
    for path in left_over(folder):
        path.unlink()


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
    parts: dict[Part, int] = {}
    unfinished: dict[Part, _Names] = {}
    skipped: dict[str, list[Skipped]] = {generator: [] for generator in sources}
    unused_images = 0
    for generator, listing, num_unused, strange in _listings(raw, folder, sources):
        skipped[generator] += strange
        unused_images += num_unused
        for part, files in listing.items():
            parts[part] = len(files)
            if files and not _is_finished(part, files):
                unfinished[part] = _Names(SEPARATOR.join(f.name for f in files), bytes(f.label for f in files))
    total = sum(len(names.labels) for names in unfinished.values())
    free = shutil.disk_usage(folder).free
    if total * IMAGE_BYTES > free:
        raise OSError(
            f"{folder} needs {total * IMAGE_BYTES / 1e9:.1f} GB for {total} images, but its disk has {free / 1e9:.1f}"
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
    with contextlib.closing(_decode_all(unfinished, jobs)) as chunks:
        for part, names in unfinished.items():
            num_files = len(names.labels)
            _finish_part(part, num_files, itertools.islice(chunks, math.ceil(num_files / CHUNK)), advance)
    report = _report(raw, folder, parts, skipped, unused_images)
    for generator, entries in skipped.items():
        rows = io.StringIO(newline="")
        csv.writer(rows).writerows([Skipped._fields, *sorted(entries)])
        write_text(folder / generator / "skipped.csv", rows.getvalue())
    return report


def _listings(
    raw: Path, folder: Path, sources: dict[str, Path]
) -> Iterator[tuple[str, dict[Part, list[RawFile]], int, list[Skipped]]]:
    """Yields generator, parts with their files, number of unused images, and all else of one folder at a time."""
    for (generator, source), split, form in itertools.product(sources.items(), SPLITS, FORMS):
        tasks, num_unused, strange = list_raw(source / split / form, generator, split, form)
        listing = {}
        for task, files in enumerate(tasks):
            target = folder / generator / str(task) / split / form
            listing[Part(source / split / form, target, generator, task, split, form)] = files
        place = (source / split / form).relative_to(raw)
        others = [Skipped(str(place / _readable(name)), "no image of GenImage") for name in strange]
        yield generator, listing, num_unused, others


def _readable(name: str) -> str:
    """Returns a file name as text that can be written, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _manifest(part: Part) -> dict[str, Any] | None:
    """Returns the manifest of a part, None if there is none that can be used."""
    try:
        return read_manifest(part.target)
    except (FileNotFoundError, ValueError):
        return None


def _is_finished(part: Part, files: list[RawFile]) -> bool:
    manifest = _manifest(part)
    if manifest is None or manifest.get("format") != _FORMAT or manifest.get("source") is None:
        return False
    if any(size_problem(part.target / name, file["bytes"]) is not None for name, file in manifest["files"].items()):
        return False
    try:
        records = (record(file.name, os.stat(part.source / file.name)) for file in files)
        return bool(hashlib.sha256(b"".join(records)).hexdigest() == manifest["source"])
    except OSError as error:
        if error.errno in UNREADABLE:
            return False
        raise


def _chunks(parts: Mapping[Part, _Names]) -> Iterator[tuple[Part, list[str], bytes, int]]:
    """Yields what a process decodes at a time: names, labels, and the place of the first image in the part."""
    for part, (joined, labels) in parts.items():
        names = joined.split(SEPARATOR)
        for start in range(0, len(names), CHUNK):
            yield part, names[start : start + CHUNK], labels[start : start + CHUNK], start


def _decode_all(parts: Mapping[Part, _Names], jobs: int) -> Generator[Decoded, None, None]:
    """Yields what became of the chunks of all parts, in order."""
    chunks = _chunks(parts)
    if jobs == 1:
        yield from itertools.starmap(decode, chunks)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=start_worker) as pool:
        waiting: deque[Future[Decoded]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(decode, *chunk))
                if len(waiting) == 4 * jobs:  # enough to keep all processes busy while a part is finished
                    yield waiting.popleft().result()
            for future in waiting:
                yield future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a process that decodes images ended, perhaps for lack of memory; a script that prepares with several "
                'processes must do so below a line if __name__ == "__main__":'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _finish_part(part: Part, num_files: int, chunks: Iterable[Decoded], advance: Callable[[int], None]) -> None:
    """Waits for the images of a part, then writes its labels and its manifest; until then, old ones stay."""
    labels: list[int] = []
    ends: list[int] = []
    source = hashlib.sha256()
    content = hashlib.sha256(header(num_files))  # of the images, taken while others are decoded
    skipped: list[tuple[str, str]] = []
    unreadable = False
    for number, chunk in enumerate(chunks):
        labels += chunk.labels
        ends.append(len(labels))
        source.update(chunk.records)
        with part.unfinished.open("rb") as file:
            file.seek(offset(number * CHUNK))
            content.update(file.read(len(chunk.labels) * IMAGE_BYTES))
        skipped += chunk.skipped
        unreadable |= chunk.unreadable
        advance(len(chunk.labels) + len(chunk.skipped))
    with (  # they get their names in the reverse order
        atomic_path(part.target / "manifest.json") as manifest_path,
        atomic_path(part.target / "labels.npy") as labels_path,
        atomic_path(part.target / "images.npy") as images_path,
    ):
        part.unfinished.replace(images_path)
        with images_path.open("rb+") as file:
            _close_gaps(file, ends)
            file.seek(0)
            file.write(header(len(labels)))
        with labels_path.open("wb") as file:
            np.save(file, np.array(labels, dtype=np.uint8))
        checksums = (sha256(images_path) if skipped else content.hexdigest(), sha256(labels_path))
        manifest = {
            "format": _FORMAT,
            **{name: getattr(part, name) for name in ("generator", "task", "split", "form")},
            "images": len(labels),
            "images_per_class": np.bincount(labels, minlength=CLASSES_PER_TASK).tolist(),
            "skipped": skipped,
            "source": None if unreadable else source.hexdigest(),  # None: the next call tries again
            "files": {
                name: {"bytes": path.stat().st_size, "sha256": checksum}
                for name, path, checksum in zip(ARRAYS, (images_path, labels_path), checksums, strict=True)
            },
        }
        manifest_path.write_text(json.dumps(manifest) + "\n")
        for path in (images_path, labels_path, manifest_path):
            with path.open("rb+") as file:
                os.fsync(file.fileno())  # a full disk may show only now
        (part.target / "manifest.json").unlink(missing_ok=True)  # that of old arrays, which go now


def _close_gaps(file: IO[bytes], ends: list[int]) -> None:
    """Moves the images of each chunk to the end of those before it, where a file that was skipped left a gap.

    Args:
        file: the images, each chunk in its place.
        ends: number of images up to the end of each chunk.
    """
    for number, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
        if begin < number * CHUNK:
            file.seek(offset(number * CHUNK))
            images = file.read(offset(end) - offset(begin))
            file.seek(offset(begin))
            file.write(images)
    file.truncate(offset(ends[-1]))


def _report(
    raw: Path, folder: Path, parts: dict[Part, int], skipped: dict[str, list[Skipped]], unused_images: int
) -> GenImageReport:
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
    unused_folders = [
        _readable(entry.name)
        for entry in raw.iterdir()
        if entry.is_dir() and entry.name not in used and not folder.resolve().is_relative_to(entry.resolve())
    ]
    return GenImageReport(
        folder,
        images,
        missing,
        sorted(itertools.chain.from_iterable(skipped.values())),
        unused_images,
        [generator for generator in GENERATORS if generator not in skipped],
        sorted(unused_folders),
    )
