"""Converting a GenImage download into arrays, and checking these.

The images of one generator, task, split and form are converted together and written one after the other as they come
from the processes that decode them, so that the memory in use does not grow with the data. Their manifest is written
last: what has no manifest is not read, and is done again by the next call, while what has one that fits the download
is not.
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

from clpack.files import atomic_path, write_bytes, write_text

from ._genimage_classes import CLASSES_PER_TASK, GENERATORS, Form, Split, class_set
from ._genimage_raw import FORMS, SIDE, SPLITS, RawFile, list_raw, raw_folder, to_pixels

__all__ = ["GenImageReport", "prepare_genimage", "verify_genimage"]

_CHUNK = 32  # images that a process decodes at a time
_IMAGE_BYTES = 3 * SIDE * SIDE
_FORMAT = 1


class Skipped(NamedTuple):
    """A file that was not converted.

    Attributes:
        path: where it is, relative to the download.
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
    """

    folder: Path
    images: dict[tuple[str, Split, Form], int]
    missing: list[tuple[str, int, Split, Form, str]]
    skipped: list[Skipped]

    def __str__(self) -> str:
        counts = [f"{generator} {split}/{form}: {n} images" for (generator, split, form), n in self.images.items()]
        missing = []
        for (generator, task, split, form), entries in itertools.groupby(self.missing, key=lambda entry: entry[:4]):
            wnids = [entry[4] for entry in entries]
            some = f"{', '.join(wnids[:3])}{', ...' if len(wnids) > 3 else ''}"
            missing.append(f"{generator} {split}/{form}: no image of {len(wnids)} classes of task {task}, {some}")
        skipped = [f"skipped {path}: {reason}" for path, reason in self.skipped]
        summary = f"{sum(self.images.values())} images in {self.folder}, {len(self.skipped)} files skipped"
        return "\n".join([*counts, *missing, *skipped, summary])


class _Part(NamedTuple):
    """Images that are converted together."""

    source: Path
    target: Path
    generator: str
    task: int
    split: Split
    form: Form
    files: list[RawFile]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names and sizes of the source files: tells whether the download changed."""
        return hashlib.sha256(repr([(file.name, file.size) for file in self.files]).encode()).hexdigest()


class _Decoded(NamedTuple):
    """What a process made of a chunk: the images that could be decoded, their labels, and the other files."""

    images: NDArray[np.uint8]
    labels: list[int]
    skipped: list[tuple[str, str]]


def prepare_genimage(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> GenImageReport:
    """Converts a GenImage download into arrays of 64x64 pixels, for all generators and tasks found in it.

    Of each image, the pixels are those that the authors of the streams made. Files that are damaged, empty or have a
    name that GenImage does not have are skipped and reported. A call that was interrupted is gone on with by the same
    call; what was converted already and has not changed since is kept. 600 of ImageNet's 1000 classes are used.

    Args:
        raw: the folder with the unpacked archives, e.g. ``raw/imagenet_ai_0508_adm/train/ai/*.PNG``.
        out: the dataset root; the arrays are written below its folder ``genimage``, 2.5 GB for each generator.
        jobs: number of processes that decode. Default: 1, this one.
        progress: called with the number of images done and to be done; None for nothing.

    Returns:
        What was converted, now and before; also written to ``genimage/skipped.csv``.

    Raises:
        FileNotFoundError: if ``raw`` or a folder of a generator in it is missing.
        ValueError: if ``jobs`` is not positive.
        OSError: if the disk is full, another process prepares the same folder, or a file cannot be read.
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


def verify_genimage(root: Path) -> list[tuple[Path, str | None]]:
    """Compares prepared arrays with their manifests.

    Args:
        root: the dataset root.

    Returns:
        Each file and what is wrong with it, None for nothing. Empty if nothing is prepared there.
    """
    found: list[tuple[Path, str | None]] = []
    for images in sorted((root / "genimage").glob("*/*/*/*/images.npy")):
        if not (images.parent / "manifest.json").exists():
            found.append((images.parent, "not finished; run clpack data prepare genimage again"))
    for path in sorted((root / "genimage").glob("*/*/*/*/manifest.json")):
        try:
            files = {path.parent / name: file for name, file in json.loads(path.read_text())["files"].items()}
            found += [(file, _problem(file, expected["bytes"], expected["sha256"])) for file, expected in files.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found.append((path, f"not a manifest: {error!r}"))
    return found


def _problem(path: Path, size: int, sha256: str) -> str | None:
    if not path.exists():
        return "missing"
    if path.stat().st_size != size:
        return f"{path.stat().st_size} bytes where {size} are expected"
    found = _sha256(path)
    return None if found == sha256 else f"wrong content, SHA-256 {found} where {sha256} is expected"


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
    for left_over in folder.glob("*/*/*/*/.*.partial"):  # of a process that was killed
        left_over.unlink()
    parts, misnamed = _parts(raw, folder, sources)
    unfinished = [part for part in parts if part.files and not _is_finished(part)]
    total = sum(len(part.files) for part in unfinished)
    free = shutil.disk_usage(folder).free
    if total * _IMAGE_BYTES > free:
        raise OSError(
            f"{folder} needs {total * _IMAGE_BYTES / 1e9:.1f} GB for {total} images, but its disk has {free / 1e9:.1f}"
        )
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    advance(0)
    for number, results in itertools.groupby(_decode_all(unfinished, jobs), key=lambda result: result[0]):
        _write_part(unfinished[number], (decoded for _, decoded in results), advance)
    report = _report(folder, parts, raw, misnamed)
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows([Skipped._fields, *report.skipped])
    write_text(folder / "skipped.csv", rows.getvalue())
    return report


def _parts(raw: Path, folder: Path, sources: dict[str, Path]) -> tuple[list[_Part], list[Skipped]]:
    parts, misnamed = [], []
    for (generator, source), split, form in itertools.product(sources.items(), SPLITS, FORMS):
        tasks, strange = list_raw(source / split / form, generator, split, form)
        for task, files in enumerate(tasks):
            target = folder / generator / str(task) / split / form
            parts.append(_Part(source / split / form, target, generator, task, split, form, files))
        place = (source / split / form).relative_to(raw)
        misnamed += [Skipped(str(place / name), "GenImage has no file of this name here") for name in strange]
    return parts, misnamed


def _manifest(part: _Part) -> dict[str, Any] | None:
    """Returns the manifest of a part, None if there is none that can be read."""
    try:
        manifest: dict[str, Any] = json.loads((part.target / "manifest.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return manifest


def _is_finished(part: _Part) -> bool:
    manifest = _manifest(part)
    return (
        manifest is not None
        and (manifest.get("format"), manifest.get("source")) == (_FORMAT, part.fingerprint)
        and all(
            (part.target / name).is_file() and (part.target / name).stat().st_size == file["bytes"]
            for name, file in manifest["files"].items()
        )
    )


def _decode_all(parts: list[_Part], jobs: int) -> Iterator[tuple[int, _Decoded]]:
    """Yields the decoded chunks of all parts in order, each with the place of its part in the list."""
    chunks = (
        (number, (part.source, part.files[start : start + _CHUNK], part.form))
        for number, part in enumerate(parts)
        for start in range(0, len(part.files), _CHUNK)
    )
    if jobs == 1:
        yield from ((number, _decode(*chunk)) for number, chunk in chunks)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start_worker) as pool:
        waiting: deque[tuple[int, Future[_Decoded]]] = deque()
        try:
            for number, chunk in chunks:
                waiting.append((number, pool.submit(_decode, *chunk)))
                if len(waiting) == 4 * jobs:  # enough to keep all processes busy, few enough to keep in memory
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        except BrokenProcessPool as error:
            raise OSError("a process that decodes images ended, perhaps for lack of memory") from error
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
    for file in files:
        try:
            if not file.size:
                raise ValueError("empty file")
            with Image.open(f"{folder}{os.sep}{file.name}") as image:
                images[len(labels)] = to_pixels(image, form)
            labels.append(file.label)
        except MemoryError:
            raise
        except Exception as error:  # whatever a damaged file makes a decoder raise
            if isinstance(error, OSError) and error.errno is not None:
                raise  # not the image is to blame, but the disk
            skipped.append((file.name, str(error).replace(f"{folder}{os.sep}", "")))
    return _Decoded(images[: len(labels)], labels, skipped)


def _write_part(part: _Part, chunks: Iterable[_Decoded], advance: Callable[[int], None]) -> None:
    """Writes the arrays of a part while they come, then its manifest."""
    part.target.mkdir(parents=True, exist_ok=True)
    (part.target / "manifest.json").unlink(missing_ok=True)
    labels: list[int] = []
    skipped: list[tuple[str, str]] = []
    with atomic_path(part.target / "images.npy") as partial, partial.open("wb") as file:
        _write_header(file, 0)
        for chunk in chunks:
            file.write(chunk.images.data)
            labels += chunk.labels
            skipped += chunk.skipped
            advance(len(chunk.labels) + len(chunk.skipped))
        file.seek(0)
        _write_header(file, len(labels))
    buffer = io.BytesIO()
    np.save(buffer, np.array(labels, dtype=np.uint8))
    write_bytes(part.target / "labels.npy", buffer.getvalue())
    manifest = {
        "format": _FORMAT,
        **{name: getattr(part, name) for name in ("generator", "task", "split", "form")},
        "images": len(labels),
        "images_per_class": np.bincount(labels, minlength=CLASSES_PER_TASK).tolist(),
        "skipped": skipped,
        "source": part.fingerprint,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in (part.target / "images.npy", part.target / "labels.npy")
        },
    }
    write_text(part.target / "manifest.json", json.dumps(manifest) + "\n")


def _write_header(file: IO[bytes], n: int) -> None:
    """Writes the header of an array of ``n`` images, which has the same length for every ``n``."""
    shape = (n, 3, SIDE, SIDE)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _report(folder: Path, parts: list[_Part], raw: Path, misnamed: list[Skipped]) -> GenImageReport:
    images: dict[tuple[str, Split, Form], int] = {}
    missing, skipped = [], list(misnamed)
    for part in parts:
        manifest = (_manifest(part) if part.files else None) or {"images_per_class": [0] * CLASSES_PER_TASK}
        counts = manifest["images_per_class"]
        kind = (part.generator, part.split, part.form)
        images[kind] = images.get(kind, 0) + sum(counts)
        absent = [entry.wnid for entry, n in zip(class_set(part.task), counts, strict=True) if not n]
        missing += [(part.generator, part.task, part.split, part.form, wnid) for wnid in absent]
        place = part.source.relative_to(raw)
        skipped += [Skipped(str(place / name), reason) for name, reason in manifest.get("skipped", [])]
    return GenImageReport(folder, images, missing, sorted(skipped))
