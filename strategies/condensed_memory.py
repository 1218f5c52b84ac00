"""A replay memory of condensed images: few synthetic ones, as pixels or low-rank factors, in place of samples.

References:
    [1] E. Yang et al. An Efficient Dataset Condensation Plugin and Its Application to Continual Learning. NeurIPS 2023.
        Authors' code: github.com/EnnengYang/An-Efficient-Dataset-Condensation-Plugin.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.storage_policy import ExemplarsBuffer

from clpack.condensation import CondensedSet, Progress, Settings, save_picture_grid
from clpack.condensation._draws import Network, check_network
from clpack.condensation.condense import check_integer
from clpack.condensation.condensed_set import per_channel
from clpack.names import unknown_name

from ._images import (
    Group,
    groups_of,
    has_task_labels,
    image_shape,
    one_image_dataset,
    random_state_kept,
    stream_groups,
)
from ._memory_sources import Condensation, RawSamples, ReadyMade, Request, Source, experts_folder, progress_file
from ._rows import experience_file
from .data import synthetic_dataset

__all__ = ["CondensedBuffer", "CondensedMemoryMetric"]

Method = Literal["dc", "dsa", "dm", "mtt", "random", "herding"]
Precision = Literal["float32", "float16"]

_IMAGES_PER_CLASS = 10  # as in the CIFAR-10 experiments of [1]


class CondensedBuffer(ExemplarsBuffer):
    """A storage policy that keeps condensed images of the classes of each experience, and no sample of the stream.

    With every update the classes of the experience are condensed (:func:`clpack.condensation.condense`), those of each
    task apart. A class that returns in the same task is condensed anew, from the new data only, and what was kept of it
    is dropped. With DM, unless the network has batch normalization, the images of a class do not depend on the other
    classes, and with ``images_per_class`` not on their order either; on a CPU to the same bits, elsewhere up to
    rounding. With ``memory_bytes`` the number that is condensed at once falls as classes come. DC, DSA and MTT condense
    the classes of an experience together; MTT first trains its experts on them, as many epochs as are looked at, and
    learns a learning rate with the images.

    Images are in the space of the stream's evaluation transform, which is what is applied to the samples condensed.
    ``buffer`` decodes them all, as a dataset without transforms that can be joined with the data of the stream. Model,
    optimizer and global random generators do not change.

    The methods ``"random"`` and ``"herding"`` are baselines that keep samples of the stream. They count as the 8-bit
    images of a data set, 1 byte for each number, although they are held as float32, transformed.

    Args:
        method: ``"dc"``, ``"dsa"``, ``"dm"`` or ``"mtt"``; ``"random"`` samples; or ``"herding"``, those whose mean
            feature in a random network is near that of their class.
        rank: of the factors. None or 0 stores pixels; samples always are.
        memory_bytes: bytes of the whole memory: pixels or factors by their element size, and 8 for each label. Classes
            have equal shares; when classes are added all are cut to the new share, the last images going first. With
            ``init="real"`` or ``"svd"`` a class gets no more images than it has samples.
        images_per_class: the memory of each class, in plain images; of low-rank ones there are more. The whole memory
            grows with the classes. Default: 10, as in [1] for CIFAR-10, if neither bytes nor a set are given.
        precision: ``"float32"`` or ``"float16"``, in which condensed numbers are stored; samples are not affected.
        condensed: a set made before, of all classes. Then nothing is condensed, and ``method`` plays no part: when a
            class comes, its images are taken from the set, the first ones if the budget is smaller than the set.
        network: see :func:`clpack.condensation.condense`.
        mean: of each channel, by which images were normalized; for pictures.
        std: standard deviation of each channel, likewise.
        seed: of everything random.
        callbacks: of :func:`clpack.condensation.condense`, called in all condensations; which it is,
            ``Progress.part`` tells, such as ``"experience_000_task_0_class_3"``.
        save_to: folder for the memory after each experience: ``experience_000.safetensors``, which
            :meth:`clpack.condensation.CondensedSet.load` reads, and the picture ``experience_000.png``. An interrupted
            condensation goes on from the files ``condensation_*.safetensors`` and the folders ``experts_*`` there. The
            experts are removed once they have been matched, the files once the memory is written. Default: None, not
            saved; experts are then in a temporary folder.
        checkpoint_every: iterations of a condensation between two writings of such a file.
        num_experts: experts of MTT, 4 bytes for each parameter and epoch, on the disk.
        expert_lr: learning rate of their training.
        expert_batch_size: mini-batch of their training.
        options: the other attributes of :class:`clpack.condensation.Settings`, by name. They are checked, but have no
            effect, where nothing is condensed.

    Attributes:
        max_size: the budget: bytes, or plain images per class; None for all of a set that was made before.

    Raises:
        ValueError: if an argument is out of range; in training, before anything is condensed, if the budget is too
            small for an image of each class of the stream, the network cannot take the images, or ``condensed`` lacks
            a class.
        TypeError: if there is no such option, or a value is of the wrong type; in training, if samples are not float32
            images.
    """

    max_size: int | None

    def __init__(
        self,
        method: Method = "dm",
        rank: int | None = 2,
        *,
        memory_bytes: int | None = None,
        images_per_class: int | None = None,
        precision: Precision = "float32",
        condensed: CondensedSet | None = None,
        network: Network = "ConvNet",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        callbacks: Sequence[Callable[[Progress], None]] = (),
        save_to: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        num_experts: int = 100,
        expert_lr: float = 0.01,
        expert_batch_size: int = 256,
        **options: Any,
    ) -> None:
        if memory_bytes is not None and images_per_class is not None:
            raise ValueError(f"give memory_bytes or images_per_class, got both: {memory_bytes} and {images_per_class}")
        for name, value in (("memory_bytes", memory_bytes), ("images_per_class", images_per_class)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if precision not in ("float32", "float16"):
            raise ValueError(f"precision must be 'float32' or 'float16', got {precision!r}")
        for name, value in (
            ("checkpoint_every", checkpoint_every),
            ("num_experts", num_experts),
            ("expert_batch_size", expert_batch_size),
        ):
            check_integer(name, value)
        if not expert_lr > 0:
            raise ValueError(f"expert_lr must be positive, got {expert_lr}")
        check_network(network)
        _check_kind(method, condensed)
        mean, std = per_channel("mean", mean), per_channel("std", std)
        if memory_bytes is None and images_per_class is None and condensed is None:
            images_per_class = _IMAGES_PER_CLASS
        options = {**options, "seed": seed}
        settings = Settings.for_method(
            "dm" if condensed is not None or method == "random" or method == "herding" else method,
            rank=rank or None,
            images_per_class=images_per_class or 1,
            **options,
        )
        super().__init__(memory_bytes or images_per_class)
        self.save_to = save_to
        self._in_bytes = memory_bytes is not None
        self._sets: dict[Group, CondensedSet] = {}
        self._template: Any = None  # a dataset of one image, like those of the stream
        self._known: dict[Group, int] = {}  # classes of the stream, and how many samples each has at least
        self._tried: tuple[Sequence[int], int] | None = None  # images and outputs that a network was tried for
        self._source: Source
        half = precision == "float16"
        if condensed is not None:
            self._source = ReadyMade(condensed.half() if half else condensed)
        elif method == "random" or method == "herding":
            self._source = RawSamples(method, network=network, mean=mean, std=std, seed=seed)
        else:
            arguments = {"mean": mean, "std": std, "checkpoint_every": checkpoint_every}
            self._source = Condensation(
                settings,
                options,
                network=network,
                half=half,
                callbacks=callbacks,
                experts={"num_experts": num_experts, "lr": expert_lr, "batch_size": expert_batch_size},
                arguments=arguments,
            )

    def __len__(self) -> int:
        return sum(map(len, self._sets.values()))

    @property
    def memory(self) -> CondensedSet:
        """The images and their classes, in the order in which the classes came.

        ``metadata["classes"]`` tells how many images each class of each task has; the other metadata are those on which
        all classes agree.

        Raises:
            ValueError: if there are none yet.
        """
        memory = CondensedSet.concat(list(self._sets.values()))
        memory.metadata["classes"] = [
            {"task": task, "class": label, "images": len(each)} for (task, label), each in self._sets.items()
        ]
        return memory

    @property
    def numel(self) -> int:
        """Stored numbers, without the labels."""
        return sum(each.numel for each in self._sets.values())

    @property
    def nbytes(self) -> int:
        """Stored bytes, with the labels; those of samples as 8-bit images."""
        return sum(map(self._source.nbytes, self._sets.values()))

    @property
    def learned_lr(self) -> float | None:
        """The learning rate that MTT has learned with the images, the mean over classes; None for other images."""
        rates = [each.metadata["lr"] for each in self._sets.values() if "lr" in each.metadata]
        return sum(rates) / len(rates) if rates else None

    @property
    def buffer(self) -> Any:
        """The images, decoded, as an ``AvalancheDataset``; an empty one before the first update."""
        if not self._sets:
            return concat_datasets([])
        memory = self.memory
        tasks = [task for (task, _), each in self._sets.items() for _ in range(len(each))]
        return synthetic_dataset(
            self._template, memory.images(), memory.targets, tasks if has_task_labels(self._template) else None
        )

    def check(self, experience: Any) -> None:
        """Raises what :meth:`post_adapt` would raise, looking at one image: for all classes of the stream, if known."""
        shape, groups = image_shape(experience.dataset), groups_of(experience.dataset)
        if not groups.keys() <= self._known.keys():
            self._known = {**self._known, **groups, **stream_groups(experience)}
        count = self._count(shape, len(self._known.keys() | self._sets.keys()))
        self._source.check(shape, {**self._known, **groups}, None if self._in_bytes else count)
        if (shape, self._outputs) != self._tried:
            with random_state_kept():
                self._source.try_network(shape, self._outputs)
            self._tried = shape, self._outputs
        self._template = one_image_dataset(experience.dataset)

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Takes in the classes of an experience.

        Args:
            agent_state: the strategy; only its device is used.
            exp: the experience.
        """
        self.add(agent_state, exp)
        self.clean_up(exp)

    def add(self, agent_state: Any, exp: Any) -> None:
        """Does what :meth:`post_adapt` does without the :meth:`clean_up`, so that it is soon done when repeated."""
        self.check(exp)
        shape, groups = image_shape(exp.dataset), groups_of(exp.dataset)
        folder = None if self.save_to is None else Path(self.save_to)
        request = Request(
            experience=exp,
            groups=groups,
            count=self._count(shape, len(groups.keys() | self._sets.keys())),
            images_per_class=None if self._in_bytes else self.max_size,
            num_classes=self._outputs,
            device=torch.device(agent_state.device),
            folder=folder,
        )
        self._sets = self._cut(self._sets | self._source.take(request))
        if folder is not None:
            path = experience_file(folder, exp.current_experience)
            self.memory.save(path.with_suffix(".safetensors"))
            save_picture_grid(self.memory, path.with_suffix(".png"))

    def clean_up(self, exp: Any) -> None:
        """Removes the files from which the condensation of an experience would have gone on."""
        if self.save_to is not None:
            for path in Path(self.save_to).glob(progress_file(exp.current_experience, "*")):
                path.unlink()
            for path in Path(self.save_to).glob(experts_folder(exp.current_experience, "*")):
                shutil.rmtree(path)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Changes the budget, in the unit that it has; images for which it is too small are dropped.

        Args:
            strategy: without effect, Avalanche's policies take it.
            new_size: bytes, or plain images per class.

        Raises:
            ValueError: if it is too small for one image of each class.
        """
        before, self.max_size = self.max_size, new_size
        try:
            self._sets = self._cut(self._sets)
        except ValueError:
            self.max_size = before
            raise

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns what is stored; the arguments are those of the policy built anew."""
        return {"max_size": self.max_size, "sets": self._sets, "template": self._template}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state.

        Raises:
            ValueError: if its images are not stored as this policy stores them.
        """
        for each in state["sets"].values():
            if (own := self._source.one_image(each.storage.shape[1:]).kind) != each.kind:
                raise ValueError(
                    f"the memory of the checkpoint is stored as {each.kind}, this policy stores {own}; build it with "
                    "the rank and precision of the run that is to go on, or delete the checkpoint to start anew"
                )
        self.max_size, self._sets, self._template = state["max_size"], state["sets"], state["template"]

    @property
    def _outputs(self) -> int:
        """Outputs that networks need for all classes."""
        return 1 + max(label for _, label in self._known.keys() | self._sets.keys())

    def _count(self, shape: Sequence[int], num_classes: int) -> int | None:
        """Returns how many images each of so many classes may have; None for all there are."""
        if self.max_size is None:
            return None
        if not self._in_bytes:
            return self._source.count(self.max_size, shape)
        size = self._source.nbytes(self._source.one_image(shape))
        count = self.max_size // num_classes // size
        if count == 0:
            raise ValueError(
                f"memory_bytes must be at least {size * num_classes}, for an image of {size} bytes, with its label, of "
                f"each of {num_classes} classes, got {self.max_size}"
            )
        return int(count)

    def _cut(self, sets: dict[Group, CondensedSet]) -> dict[Group, CondensedSet]:
        """Returns every class cut to its share."""
        if not sets:
            return sets
        count = self._count(CondensedSet.concat(list(sets.values())).storage.shape[1:], len(sets))
        return {
            group: each if count is None or len(each) <= count else each.select(slice(0, count))
            for group, each in sets.items()
        }


def _check_kind(method: str, condensed: CondensedSet | None) -> None:
    if condensed is not None:
        if not isinstance(condensed, CondensedSet):
            raise TypeError(f"condensed must be a clpack.condensation.CondensedSet, got {type(condensed).__name__}")
        return
    if method not in get_args(Method):
        raise ValueError(unknown_name("method", str(method), get_args(Method)))


class CondensedMemoryMetric(PluginMetric[dict[str, int]]):
    """Logs what the :class:`CondensedBuffer` of a strategy holds after each experience.

    The values are ``Memory_Images``, ``Memory_Numbers``, without labels, and ``Memory_Bytes``, with labels, each
    ``.../train_phase/Exp000``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, int] = {}

    def reset(self) -> None:
        """Forgets the values."""
        self._values = {}

    def result(self) -> dict[str, int]:
        """Returns the latest values by name."""
        return self._values

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        policies = [getattr(plugin, "storage_policy", None) for plugin in strategy.plugins]
        memories = [policy for policy in policies if isinstance(policy, CondensedBuffer)]
        self._values = {
            "Memory_Images": sum(map(len, memories)),
            "Memory_Numbers": sum(memory.numel for memory in memories),
            "Memory_Bytes": sum(memory.nbytes for memory in memories),
        }
        experience = f"train_phase/Exp{strategy.experience.current_experience:03d}"
        step = strategy.clock.train_iterations
        return [MetricValue(self, f"{name}/{experience}", value, step) for name, value in self._values.items()]

    def __str__(self) -> str:
        return "Condensed_Memory"
