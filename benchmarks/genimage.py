"""GenImage-CL and GenImage-Disjoint: six tasks of 100 ImageNet classes, each with natural and synthetic images.

From "Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning" (EpochLoss), built on
GenImage (M. Zhu et al., NeurIPS 2023, arXiv:2306.08571). The images, 64x64 pixels, come from a GenImage download, from
the tensors that the authors published, or from what ``clpack data prepare genimage`` makes of a download. In the last
form they stay on the disk until they are read, so that a stream opens at once.

The authors' program numbers the classes of each split by the labels that occur there, so that a class missing from an
incomplete download shifts the others. Here labels come from the class sets, and a missing class is an error.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from avalanche.benchmarks import ClassificationScenario
from torch import Tensor
from torchvision.transforms import Compose, Normalize

from clpack.names import unknown_name
from clpack.randomness import generator_for

from ._class_order import check_n_experiences, check_seed
from ._genimage_classes import CLASSES_PER_TASK, GENERATORS, TASKS, Form, Split, class_set
from ._genimage_files import MEAN, STD, GenImageFiles, TaskImages
from ._substitution import (
    SyntheticTasks,
    check_flags,
    check_val_fraction,
    drawn_seed,
    hold_out,
    in_evaluation_order,
    streams_benchmark,
    task_dataset,
    task_forms,
)
from .files import resolve_dataset_root

__all__ = ["GenImageCL", "GenImageDisjoint", "check_options"]

_Transform = Callable[[Tensor], Tensor] | None
_Val = Literal["train", "test"]
_OnMissing = Literal["error", "warn"]
_EvalOrder = Literal["shuffled", "stored"]


def GenImageCL(
    generator: str,
    n_experiences: int = TASKS,
    *,
    synthetic_tasks: SyntheticTasks = 0,
    return_task_id: bool = True,
    class_ids_from_zero_in_each_exp: bool = True,
    seed: int | None = 0,
    val_fraction: float = 0.1,
    val: _Val = "train",
    eval_order: _EvalOrder = "shuffled",
    truncate_to: int | None = None,
    on_missing: _OnMissing = "error",
    normalize: bool = False,
    train_transform: _Transform = None,
    eval_transform: _Transform = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> ClassificationScenario:
    """Six tasks of 100 classes each, with the images of one generator and the natural images distributed with them.

    Streams: ``train``; ``valid``, held out from the training images; ``test`` and ``test_natural``, the natural test
    images (the same in both); ``test_synthetic``, unless there is a task without any synthetic test image. GenImage's
    ``val`` images are the test images. A complete download has about 16200 training and 600 test images per task and
    form.

    Args:
        generator: ``"ADM"``, ``"BigGAN"``, ``"Midjourney"``, ``"glide"``, ``"stable_diffusion_v_1_4"`` or ``"VQDM"``.
        n_experiences: the number of tasks, from the first one on: 1 to 6.
        synthetic_tasks: which tasks train on synthetic images: the number of tasks from the first one on, the indices
            of the tasks, or ``"ai"`` or ``"nature"`` for each task. Default: 0, none.
        return_task_id: True labels the experiences 0, 1, ...; False labels all of them 0.
        class_ids_from_zero_in_each_exp: True gives the labels 0..99 in each task; False gives ``100 * task + label``.
        seed: seed of the choice of validation images; None draws it from the present state of torch's global
            generator, which stays as it is.
        val_fraction: the part of the training images of each class that is held out for validation, in [0, 1);
            0 leaves out the stream ``valid``.
        val: ``"test"`` takes for validation the test images of the form that the task trains on instead, as the
            authors may have done; ``val_fraction`` then plays no part.
        eval_order: ``"shuffled"`` puts validation and test images into a fixed random order, which networks that
            normalize by the statistics of the batch need; ``"stored"`` keeps that of the files.
        truncate_to: leaves out the last images of each task so that their number is a multiple of this, in training
            and in testing; the authors' program has 10. None keeps all.
        on_missing: ``"warn"`` instead of an error if there are images of a task, but none of one of its classes.
        normalize: True normalizes with ImageNet's mean and standard deviation; False gives values in [0, 1].
        train_transform: applied to each training image; None for nothing.
        eval_transform: applied to each validation and test image; None for nothing.
        dataset_root: folder of the data; None takes ``CLPACK_DATA`` or ``~/.clpack``. Below it, or its folder
            ``genimage``, lie the prepared arrays, the authors' tensors or the unpacked archives, looked for in this
            order.

    Returns:
        The benchmark, of Avalanche's classic family; its attribute ``data_description`` says which data it has.

    Raises:
        TypeError, ValueError: if an argument has an impossible value, a file is damaged, a class has no image, or
            ``truncate_to`` leaves none.
        FileNotFoundError: if there are no images of a task.
    """
    return _open(locals())


def GenImageDisjoint(
    n_experiences: int = TASKS,
    *,
    reverse_generators: bool = False,
    synthetic_tasks: SyntheticTasks = 0,
    return_task_id: bool = True,
    class_ids_from_zero_in_each_exp: bool = True,
    seed: int | None = 0,
    val_fraction: float = 0.1,
    val: _Val = "train",
    eval_order: _EvalOrder = "shuffled",
    truncate_to: int | None = None,
    on_missing: _OnMissing = "error",
    normalize: bool = False,
    train_transform: _Transform = None,
    eval_transform: _Transform = None,
    dataset_root: str | os.PathLike[str] | None = None,
) -> ClassificationScenario:
    """Six tasks of 100 classes each, every task with the images of another generator.

    Task ``k`` has the ``k``-th generator in the order ADM, BigGAN, Midjourney, glide, Stable Diffusion 1.4, VQDM, and
    the same classes as task ``k`` of :func:`GenImageCL`, whose other arguments, streams and errors it shares.

    Args:
        n_experiences: see :func:`GenImageCL`.
        reverse_generators: True takes the generators in the reverse order; the classes of the tasks stay, as in the
            authors' reversed stream.
        synthetic_tasks: see :func:`GenImageCL`, like all that follow.
        return_task_id: see there.
        class_ids_from_zero_in_each_exp: see there.
        seed: see there.
        val_fraction: see there.
        val: see there.
        eval_order: see there.
        truncate_to: see there.
        on_missing: see there.
        normalize: see there.
        train_transform: see there.
        eval_transform: see there.
        dataset_root: see there.

    Returns:
        The benchmark, of Avalanche's classic family.

    Raises:
        TypeError, ValueError, FileNotFoundError: as :func:`GenImageCL`.
    """
    return _open(locals())


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments of a stream of this module, all of them by name.

    Raises:
        TypeError, ValueError: if one has an impossible value.
    """
    if "generator" in arguments and arguments["generator"] not in list(GENERATORS):  # a list can look for any value
        raise ValueError(unknown_name("generator", str(arguments["generator"]), GENERATORS))
    check_n_experiences(arguments["n_experiences"])
    if arguments["n_experiences"] > TASKS:
        raise ValueError(f"n_experiences must be at most {TASKS}, got {arguments['n_experiences']}")
    if arguments["seed"] is not None:
        check_seed(arguments["seed"])
    task_forms(arguments["synthetic_tasks"], arguments["n_experiences"])
    check_val_fraction(arguments["val_fraction"])
    check_flags(arguments, "return_task_id", "class_ids_from_zero_in_each_exp", "normalize", "reverse_generators")
    for name, choices in (("val", _Val), ("on_missing", _OnMissing), ("eval_order", _EvalOrder)):
        if arguments[name] not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {arguments[name]!r}")
    truncate_to = arguments["truncate_to"]
    if truncate_to is not None and (
        isinstance(truncate_to, bool) or not isinstance(truncate_to, int) or truncate_to < 1
    ):
        raise ValueError(f"truncate_to must be a positive integer or None, got {truncate_to!r}")


def _open(options: dict[str, Any]) -> ClassificationScenario:
    """Opens the stream that has these arguments."""
    check_options(options)
    n_tasks = options["n_experiences"]
    if "generator" in options:
        generators = [options["generator"]] * n_tasks
    else:
        generators = list(GENERATORS)[:: -1 if options["reverse_generators"] else 1][:n_tasks]
    forms = task_forms(options["synthetic_tasks"], n_tasks)
    seed = drawn_seed(options["seed"])
    source = _Source(GenImageFiles(resolve_dataset_root(options["dataset_root"])), generators, options)

    train, valid = [], []
    for task, form in enumerate(forms):
        images = source.dataset(task, "train", form)
        if options["val"] == "test":
            valid.append(source.evaluated(source.dataset(task, "val", form)))
        elif options["val_fraction"]:
            generator = generator_for(seed, "validation images", task)
            kept, held_out = hold_out(torch.tensor(list(images.targets)), options["val_fraction"], generator)
            valid.append(source.evaluated(images.subset(held_out.tolist())))
            images = images.subset(kept.tolist())
        train.append(images.train())
    natural = [source.evaluated(source.dataset(task, "val", "nature")) for task in range(n_tasks)]
    streams = {"train": train, "test": natural, "test_natural": natural}
    if valid:
        streams["valid"] = valid
    if all(source.find(task, "val", "ai") for task in range(n_tasks)):
        streams["test_synthetic"] = [source.evaluated(source.dataset(task, "val", "ai")) for task in range(n_tasks)]
    kinds = ", ".join(sorted(source.kinds))
    parts = ", ".join(f"{generator} {form}" for generator, form in zip(generators, forms, strict=True))
    return streams_benchmark(streams, f"GenImage ({kinds}), training images of {parts}")


class _Source:
    """The images of the tasks of one stream as Avalanche data sets."""

    def __init__(self, files: GenImageFiles, generators: Sequence[str], options: Mapping[str, Any]) -> None:
        self.kinds: set[str] = set()
        self._files = files
        self._generators = generators
        self._options = options
        self._opened: dict[tuple[int, Split, Form], TaskImages | None] = {}

    def find(self, task: int, split: Split, form: Form) -> TaskImages | None:
        """Opens images, once; None if there is not one."""
        key = (task, split, form)
        if key not in self._opened:
            images = self._files.find(self._generators[task], task, split, form)
            if images is not None and not len(images.data):
                images = None  # an empty folder of a download is as good as none
            if images is not None:
                self._check_classes(images.data.targets, f"{self._generators[task]} {split}/{form}", task)
                self.kinds.add(images.kind)
                if not self._options["class_ids_from_zero_in_each_exp"]:
                    images.data.targets = [CLASSES_PER_TASK * task + label for label in images.data.targets]
            self._opened[key] = images
        return self._opened[key]

    def dataset(self, task: int, split: Split, form: Form) -> Any:
        """Returns images that must be there, in their order on the disk."""
        images, options = self.find(task, split, form), self._options
        if images is None:
            raise FileNotFoundError(
                f"there are no {split}/{form} images of {self._generators[task]} for task {task} in "
                f"{self._files.root} or its folder genimage, neither prepared (images.npy) nor as tensors (X.pt) nor "
                "as downloaded. clpack downloads nothing by itself: get the archives from "
                "https://github.com/GenImage-Dataset/GenImage, unpack them into a folder RAW and run\n"
                f"  clpack data prepare genimage RAW {shlex.quote(str(self._files.root))}"
            )
        dataset = task_dataset(
            images.data,
            task_label=task if options["return_task_id"] else 0,
            pixels=Compose([images.pixels, Normalize(MEAN, STD)]) if options["normalize"] else images.pixels,
            train_transform=options["train_transform"],
            eval_transform=options["eval_transform"],
        )
        n, multiple = len(dataset), options["truncate_to"] or 1
        if n < multiple:
            raise ValueError(
                f"truncate_to must be at most the number of images, {n} in {split}/{form} of "
                f"{self._generators[task]} for task {task}, got {multiple}"
            )
        return dataset.subset(range(n - n % multiple)) if multiple > 1 else dataset

    def evaluated(self, dataset: Any) -> Any:
        """Returns the images in the order for validation and testing."""
        return dataset if self._options["eval_order"] == "stored" else in_evaluation_order(dataset)

    def _check_classes(self, labels: Sequence[int], what: str, task: int) -> None:
        present = set(labels)
        absent = [f"{entry.wnid} ({entry.name})" for n, entry in enumerate(class_set(task)) if n not in present]
        if not absent:
            return
        message = (
            f"{what} has no image of {len(absent)} of the {CLASSES_PER_TASK} classes of task {task}: "
            f"{', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}"
        )
        if self._options["on_missing"] == "error":
            raise ValueError(f"{message}; complete the download, or pass on_missing='warn' to do without them")
        warnings.warn(message, stacklevel=2)
