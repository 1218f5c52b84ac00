"""GenImage's generators, file names and classes, and the class sets of the GenImage streams.

ImageNet's classes are numbered in two ways. The *index*, 0 to 999, follows the WordNet ids (wnids) and stands in the
names of synthetic images. The *devkit id*, 1 to 1000, is that of the ILSVRC development kit: the ground truth of the
validation images is written in it, and the label of a class within its set is the rank of its devkit id there. Some
class names occur twice (crane, maillot), so a name never identifies a class.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple

__all__ = [
    "CLASSES_PER_TASK",
    "GENERATORS",
    "TASKS",
    "Form",
    "Generator",
    "ImageNetClass",
    "Split",
    "class_set",
    "imagenet_classes",
    "parse_file_name",
    "task_and_label",
]

Split = Literal["train", "val"]
"""GenImage's two parts; the streams test on ``val`` and take their validation images out of ``train``."""

Form = Literal["nature", "ai"]
"""Natural images, or synthetic ones of the same classes."""


class Generator(NamedTuple):
    """How the images of one generator are distributed.

    Attributes:
        archive: the folder that its archive unpacks to.
        pattern: matches the names of its synthetic images; group 1 is the class index, group 2 the image number.
    """

    archive: str
    pattern: re.Pattern[str]


def _generator(archive: str, prefix: str, token: str) -> Generator:
    return Generator(archive, re.compile(rf"{prefix}(\d+)_{token}_(\d+)\.(?i:png)"))


GENERATORS = {
    "ADM": _generator("imagenet_ai_0508_adm", "", "adm"),
    "BigGAN": _generator("imagenet_ai_0419_biggan", "", "biggan"),
    "Midjourney": _generator("imagenet_midjourney", "", "midjourney"),
    "glide": _generator("imagenet_glide", r"GLIDE_\d+_\d+_\d+_", "glide"),
    "stable_diffusion_v_1_4": _generator("imagenet_ai_0419_sdv4", "", "sdv4"),
    "VQDM": _generator("imagenet_ai_0419_vqdm", r"VQDM_\d+_\d+_\d+_", "vqdm"),
}
"""The generators of the streams; the one at place ``k`` gives task ``k`` of GenImage-Disjoint."""

TASKS = len(GENERATORS)
CLASSES_PER_TASK = 100

_NATURE = {
    "train": re.compile(r"(n\d{8})_(\d+)\.(?i:jpeg)"),
    "val": re.compile(r"ILSVRC2012_val_(\d{8})\.(?i:jpeg)"),
}


@dataclass(frozen=True)
class ImageNetClass:
    """One of the 1000 classes.

    Attributes:
        index: 0 to 999, in the order of the wnids.
        wnid: its WordNet id, e.g. ``"n01440764"``.
        name: its name, e.g. ``"tench"``.
        devkit: 1 to 1000, its id in the ILSVRC development kit.
    """

    index: int
    wnid: str
    name: str
    devkit: int


@functools.cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """Returns the 1000 classes by index."""
    return tuple(ImageNetClass(index, *row) for index, row in enumerate(_tables()["imagenet"]))


@functools.cache
def class_set(task: int) -> tuple[ImageNetClass, ...]:
    """Returns the 100 classes of a task by label, the rank of the devkit id.

    Args:
        task: 0 to 5. The sets of different tasks have no class in common.
    """
    indices = list(_tables()["class_sets"].values())[task]
    return tuple(sorted((imagenet_classes()[index] for index in indices), key=lambda entry: entry.devkit))


@functools.cache
def task_and_label() -> dict[int, tuple[int, int]]:
    """Returns task and label of each class that the streams use, by index."""
    return {entry.index: (task, label) for task in range(TASKS) for label, entry in enumerate(class_set(task))}


def parse_file_name(generator: str, split: Split, form: Form, name: str) -> tuple[int, int] | None:
    """Returns what a file name tells.

    Args:
        generator: a key of :data:`GENERATORS`; it matters for synthetic images only.
        split: where the file lies; it matters for natural images only.
        form: where the file lies.
        name: the name of the file, without folders.

    Returns:
        The index of the class and the number of the image; None if GenImage names no image like this.
    """
    match = (GENERATORS[generator].pattern if form == "ai" else _NATURE[split]).fullmatch(name)
    if match is None:
        return None
    number = int(match[match.lastindex or 0])
    if form == "ai":
        index: int | None = int(match[1])
    elif split == "train":
        index = _index_of_wnid().get(match[1])
    else:
        index = _index_of_validation_image(number)
    return None if index is None or index >= len(imagenet_classes()) else (index, number)


def _index_of_validation_image(number: int) -> int | None:
    truth = _tables()["validation"]
    return _index_of_devkit()[truth[number - 1]] if 1 <= number <= len(truth) else None


@functools.cache
def _index_of_wnid() -> dict[str, int]:
    return {entry.wnid: entry.index for entry in imagenet_classes()}


@functools.cache
def _index_of_devkit() -> dict[int, int]:
    return {entry.devkit: entry.index for entry in imagenet_classes()}


@functools.cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(resources.files(__package__).joinpath("genimage_classes.json").read_text())
    return tables
