"""GenImage as downloaded: its folders, its file names, and how an image becomes 64x64 pixels.

Nothing here needs torch, so that the processes that convert images start at once.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._genimage_classes import GENERATORS, TASKS, Form, Split, parse_file_name, task_and_label

__all__ = ["FORMS", "SIDE", "SPLITS", "UNREADABLE", "RawFile", "is_filled", "list_raw", "raw_folder", "to_pixels"]

SPLITS: tuple[Split, ...] = ("train", "val")
FORMS: tuple[Form, ...] = ("nature", "ai")

SIDE = 64  # pixels, of every image of the streams

UNREADABLE = (errno.EACCES, errno.ENOENT, errno.EISDIR, errno.ELOOP)  # errors for which one file is to blame


class RawFile(NamedTuple):
    """An image of a class that the streams use.

    Attributes:
        name: name of the file.
        label: label of its class within the task, 0 to 99.
    """

    name: str
    label: int


def raw_folder(root: Path, generator: str) -> Path | None:
    """Returns the folder with ``train/ai``, ``train/nature``, ``val/ai`` or ``val/nature`` of a generator.

    The archive may have been unpacked into ``root``, ``root/<generator>`` or ``root/<generator>/raw``, with the folder
    that it brings or without.
    """
    archive = GENERATORS[generator].archive
    places = [
        root / archive,
        *(root / generator / inner for inner in (archive, "raw", f"raw/{archive}", "")),
    ]
    present = (place for place in places if any((place / split / form).is_dir() for split in SPLITS for form in FORMS))
    return next(present, None)


def list_raw(folder: Path, generator: str, split: Split, form: Form) -> tuple[list[list[RawFile]], int, list[str]]:
    """Lists the images of a folder that holds all classes.

    Args:
        folder: the folder of that generator, split and form.
        generator: a key of ``GENERATORS``.
        split: ``"train"`` or ``"val"``.
        form: ``"nature"`` or ``"ai"``.

    Returns:
        The images of each task in the order of their names, the number of images of classes that no task uses, and the
        names of all else: what GenImage calls no image like, folders, and links to nothing.
    """
    used = task_and_label()
    tasks: list[list[RawFile]] = [[] for _ in range(TASKS)]
    num_unused = 0
    strange = []
    with os.scandir(folder) as entries:
        for entry in entries:
            parsed = parse_file_name(generator, split, form, entry.name)
            if parsed is None or not _is_file(entry):
                strange.append(entry.name)
            elif parsed[0] in used:
                task, label = used[parsed[0]]
                tasks[task].append(RawFile(entry.name, label))
            else:
                num_unused += 1
    return [sorted(files) for files in tasks], num_unused, sorted(strange)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a regular file or a link to one; the folder itself tells, but for links."""
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno in UNREADABLE:
            return False
        raise


def is_filled(path: Path) -> bool:
    """Returns whether a file can be read and is not empty, as far as the folder tells."""
    try:
        return path.stat().st_size > 0
    except OSError as error:
        if error.errno in UNREADABLE:
            return False
        raise


def to_pixels(image: Image.Image, form: Form) -> NDArray[np.uint8]:
    """Returns an image as the authors of the streams made them: uint8, ``(3, 64, 64)``, read-only.

    Synthetic images are resized as they are, with bicubic filtering, and then become RGB. Natural images become RGB,
    are resized to a shorter side of 64 with bilinear filtering, and lose what is beyond the central square.
    """
    if form == "ai":
        image = image.resize((SIDE, SIDE)).convert("RGB")
    else:
        width, height = image.size
        shorter = min(width, height)
        width, height = SIDE * width // shorter, SIDE * height // shorter
        left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
        if image.mode != "RGB":  # else converting would only copy
            image = image.convert("RGB")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + SIDE, top + SIDE))
    return np.asarray(image).transpose(2, 0, 1)
