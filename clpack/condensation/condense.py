r"""Condensing a data set into few synthetic images, as pixels or as low-rank factors.

References:
    [1] B. Zhao, K. R. Mopuri, H. Bilen. Dataset Condensation with Gradient Matching (DC). ICLR 2021, arXiv:2006.05929.
    [2] B. Zhao, H. Bilen. Dataset Condensation with Differentiable Siamese Augmentation (DSA). ICML 2021.
    [3] B. Zhao, H. Bilen. Dataset Condensation with Distribution Matching (DM). WACV 2023, arXiv:2110.04181.
        Authors' code of these: github.com/VICO-UoE/DatasetCondensation (MIT).
    [4] G. Cazenavette et al. Dataset Distillation by Matching Training Trajectories (MTT). CVPR 2022, arXiv:2203.11932.
    [5] E. Yang et al. An Efficient Dataset Condensation Plugin and Its Application to Continual Learning (LoDC, LoDSA,
        LoDM, LoMTT). NeurIPS 2023. Authors' code: github.com/EnnengYang/An-Efficient-Dataset-Condensation-Plugin.

Deviations from the authors' code: exactly as many updates as iterations are made, and the set that results is the one
that is evaluated (there: one more, after the evaluation); random numbers come from a seed, and the global generators
stay as they are; a network trained for matching is the same for equal seeds, not for equal clock times.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from clpack.names import unknown_name
from clpack.presets import DSA_NATURAL
from clpack.randomness import generator_for

from ._checkpoint import describe_run, restore, save
from ._draws import Draws, Network, describe_network, network_factory
from ._updates import DistributionMatching, GradientMatching, RealImages, TrajectoryMatching, Updater
from .augmentation import draw_augmentation
from .condensed_set import CondensedSet
from .evaluate import _check_pair
from .images import LowRankImages, PixelImages, Rounding, SyntheticImages, equivalent_images_per_class
from .matching import Metric
from .trajectories import ExpertBuffer

__all__ = ["Progress", "Settings", "check_integer", "condense", "gradient_loops"]

Method = Literal["dc", "dsa", "dm", "mtt"]
Init = Literal["noise", "real", "svd"]

_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
_ITERATIONS = {"dc": 1000, "dsa": 1000, "dm": 20_000, "mtt": 5000}
_LR_IMG = {"dc": 0.1, "dsa": 0.1, "dm": 1.0, "mtt": 1000.0}


def gradient_loops(images_per_class: int) -> tuple[int, int]:
    """Returns the outer and inner loops of gradient matching for a budget of plain images per class [1].

    They are (1, 1) for 1, (10, 50) for 10, (20, 25) for 20, (30, 20) for 30, (40, 15) for 40 and (50, 10) for 50 and
    more; between these, those of the next smaller one. Low-rank forms use the budget too, not their number of images.
    The code of [5] has (10, 50) for 20.
    """
    return _LOOPS[max(known for known in _LOOPS if known <= images_per_class)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to condense; :meth:`for_method` fills in what the authors use for a method.

    Attributes:
        method: ``"dc"`` [1], ``"dsa"`` [2], ``"dm"`` [3] or ``"mtt"`` [4].
        images_per_class: the budget: plain images of each class. Default 1.
        rank: of the factors [5]; None stores pixels.
        iterations: updates, each with a new network; for DC and DSA rounds of ``loops``. Default 1000, for DM 20 000,
            for MTT 5000.
        lr_img: learning rate of the images or factors. Default 0.1, for DM 1, for MTT 1000.
        init: ``"noise"``, standard normal numbers; ``"real"``, random real images, for pixels only; or ``"svd"``, their
            closest factors, for low ranks only. Default noise, but real images for pixels with DSA, DM and MTT.
        augmentation: strategy of :func:`augment`. Default ``"none"`` for DC, else ``DSA_NATURAL``; give ``DSA_DIGITS``
            for digits.
        loops: outer and inner loops of DC and DSA. Default: those of :func:`gradient_loops`.
        rounding: see :func:`equivalent_images_per_class`.
        keep_ipc: keep ``images_per_class`` low-rank images instead of as many as take the same memory.
        momentum: of all optimizers of images and of the learned learning rate.
        batch_real: real images of a class in an update; all, if there are fewer.
        batch_train: mini-batch of the inner loop of DC and DSA.
        lr_net: learning rate of the networks of DC and DSA.
        metric: see :func:`gradient_distance`.
        network_reuse: DM only: updates made with one network, one augmentation and one real batch of each class.
        syn_steps: MTT: steps of the student.
        expert_epochs: MTT: epochs of the expert from the start to the target.
        max_start_epoch: MTT: starts are below it.
        batch_syn: MTT: mini-batch of the student; the whole set if None.
        lr_teacher: MTT: first learning rate of the student.
        lr_lr: MTT: learning rate of that learning rate.
        piece_size: images in a network at a time: for the real ones, and for the synthetic ones of DM, of which a class
            is never divided. It changes results by rounding only. 16 on a CPU, where small activations are much faster;
            :func:`condense` takes 4096 elsewhere. Batch normalization needs all images at once in DM.
        seed: of everything random.
    """

    method: Method
    images_per_class: int
    rank: int | None
    iterations: int
    lr_img: float
    init: Init
    augmentation: str
    loops: tuple[int, int]
    rounding: Rounding = "total"
    keep_ipc: bool = False
    momentum: float = 0.5
    batch_real: int = 256
    batch_train: int = 256
    lr_net: float = 0.01
    metric: Metric = "ours"
    network_reuse: int = 1
    syn_steps: int = 50
    expert_epochs: int = 2
    max_start_epoch: int = 5
    batch_syn: int | None = None
    lr_teacher: float = 0.01
    lr_lr: float = 1e-7
    piece_size: int = 16
    seed: int = 0

    @property
    def trajectory_epochs(self) -> int:
        """MTT: the epochs of an expert that are looked at, from its first weights on."""
        return self.max_start_epoch - 1 + self.expert_epochs

    @classmethod
    def for_method(
        cls, method: Method, *, rank: int | None = None, images_per_class: int = 1, **options: Any
    ) -> Settings:
        """Returns the settings of a method; ``options`` replace them by name.

        Raises:
            ValueError: if a value is out of range.
            TypeError: if there is no such option, or a value is of the wrong type.
        """
        if method not in get_args(Method):
            raise ValueError(unknown_name("method", str(method), get_args(Method)))
        check_integer("images_per_class", images_per_class)
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in fields:
                raise TypeError(unknown_name("option", name, fields))
        defaults: dict[str, Any] = {
            "iterations": _ITERATIONS[method],
            "lr_img": _LR_IMG[method],
            "init": "noise" if method == "dc" or rank is not None else "real",
            "augmentation": "none" if method == "dc" else DSA_NATURAL,
            "loops": gradient_loops(images_per_class),
        }
        return cls(method=method, rank=rank, images_per_class=images_per_class, **{**defaults, **options})

    def __post_init__(self) -> None:
        numbers = ("images_per_class", "iterations", "batch_real", "batch_train", "network_reuse", "piece_size")
        for name in (*numbers, "syn_steps", "expert_epochs", "max_start_epoch"):
            check_integer(name, getattr(self, name))
        for name in ("rank", "batch_syn"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name))
        pair = (
            isinstance(self.loops, Sequence) and len(self.loops) == 2 and all(type(each) is int for each in self.loops)
        )
        if not pair or self.loops[0] < 1 or self.loops[1] < 0:
            raise ValueError(f"loops must be outer and inner loops, integers of at least 1 and 0, got {self.loops!r}")
        for name in ("lr_img", "lr_net", "lr_teacher", "lr_lr", "momentum"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
            if not value > 0 and name != "momentum":
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        for name, choice, known in (
            ("metric", self.metric, get_args(Metric)),
            ("rounding", self.rounding, get_args(Rounding)),
        ):
            if choice not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {choice!r}")
        draw_augmentation(self.augmentation, (1, 1, 8, 8), generator=generator_for(self.seed))  # complains at once
        allowed = ("noise", "real") if self.rank is None else ("noise", "svd")
        if self.init not in allowed:
            kind = "pixels" if self.rank is None else f"factors of rank {self.rank}"
            raise ValueError(f"init must be {allowed[0]!r} or {allowed[1]!r} for {kind}, got {self.init!r}")
        if self.network_reuse > 1 and self.method != "dm":
            raise ValueError(f"network_reuse is for method='dm', got {self.network_reuse} with method={self.method!r}")


@dataclass(frozen=True)
class Progress:
    """What a callback of :func:`condense` gets after each iteration.

    Attributes:
        iteration: iterations done.
        iterations: of all.
        loss: of this iteration, before its update; a scalar on the device. DC and DSA: mean over classes and outer
            loops of the gradient distance. DM: mean over classes of the distribution distance. MTT: the trajectory
            distance.
        condensed: the set as it is now; it goes on changing.
        lr: MTT: the learned learning rate as it is now, a scalar on the device; it goes on changing.
        part: which part of a larger work is being condensed, as a word for names of files and curves; ``""`` if it is
            all.
    """

    iteration: int
    iterations: int
    loss: Tensor
    condensed: CondensedSet
    lr: Tensor | None = None
    part: str = ""


def condense(
    images: Tensor,
    targets: Tensor,
    *,
    method: Method = "dc",
    rank: int | None = None,
    images_per_class: int = 1,
    classes: Sequence[int] | None = None,
    network: Network = "ConvNet",
    num_classes: int | None = None,
    experts: ExpertBuffer | str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: torch.device | str | None = None,
    callbacks: Sequence[Callable[[Progress], None]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    **options: Any,
) -> CondensedSet:
    """Condenses a data set: makes few images on which networks learn what they learn on the real ones.

    With a rank, any method becomes its low-rank form [5]: LoDC, LoDSA, LoDM or LoMTT, with as many images as fit into
    the memory of ``images_per_class`` plain ones::

        condensed = condense(images, targets, method="dm", rank=2, images_per_class=10, iterations=2000)
        result = evaluate(condensed.images(), condensed.targets, test_images, test_targets)

    What is drawn for a class does not depend on the others, so in DM, without batch normalization, a class condensed
    alone is what it is among others, up to rounding.

    Memory above the data, in float32 numbers, with A the activations of the network for one image, P its parameters, p
    the piece size and n the images of a class: for DM ``batch_real C H W + A max(p, n)`` in each piece, for DC and DSA
    ``batch_real C H W + A max(p, 3 n) + 4 P``, for MTT ``(3 A batch_syn + 2 P) syn_steps``; and in all three times the
    stored numbers.

    Args:
        images: float tensor of shape ``(N, C, H, W)``, normalized. Batches are moved to the device as needed.
        targets: int64 tensor of shape ``(N,)``.
        method: see :class:`Settings`.
        rank: see :class:`Settings`.
        images_per_class: see :class:`Settings`.
        classes: which classes to condense, in which order. Default: all in ``targets``, in ascending order.
        network: one of :data:`clpack.models.EVALUATION_NETWORKS`, or a function that builds a network with random
            weights. DM uses its ``features``.
        num_classes: outputs of a network that is built by its name. Default: the largest label and one.
        experts: for MTT: from :func:`train_experts`, or their folder.
        mean: of each channel, by which images were normalized; kept with the set, for pictures.
        std: standard deviation of each channel, likewise.
        device: where to work. Default: where ``images`` are.
        callbacks: called after each iteration, see :class:`Progress`.
        checkpoint: a file for what is needed to go on after an interruption, written every ``checkpoint_every``
            iterations and at the end. If it exists, the run goes on from there, to the same bits where operations are
            deterministic, as on a CPU. It holds no images but the synthetic ones.
        checkpoint_every: iterations.
        options: the other attributes of :class:`Settings`, by name.

    Returns:
        The set, on the device, class after class; ``metadata`` holds the settings, and for MTT the learned ``"lr"``.

    Raises:
        ValueError: if a shape, class or option is wrong, the budget is too small, or the checkpoint is of another run.
        TypeError: if a tensor or an option is of the wrong type.
    """
    _check_pair("images", images, "targets", targets)
    device = torch.device(images.device if device is None else device)
    options.setdefault("piece_size", 16 if device.type == "cpu" else 4096)
    settings = Settings.for_method(method, rank=rank, images_per_class=images_per_class, **options)
    check_integer("checkpoint_every", checkpoint_every)
    classes = _classes(targets, classes)
    outputs = int(targets.max()) + 1 if num_classes is None else num_classes
    if outputs <= max(classes):
        raise ValueError(f"num_classes must be above the largest class, {max(classes)}, got {outputs}")
    factory = network_factory(network, outputs, images.shape)
    real = RealImages(images, targets, classes, device)
    draws = Draws(settings.seed, factory, device)
    storage = _start(real, settings, draws).to(device)
    updater = _updater(real, storage, settings, draws, experts)
    condensed = CondensedSet(storage, updater.targets, mean=mean, std=std, metadata={"settings": _as_json(settings)})
    run, first = "", 0
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        matched = updater.experts if isinstance(updater, TrajectoryMatching) else None
        run = describe_run(images, targets, condensed, describe_network(factory), matched)
        if checkpoint.exists():
            first = restore(checkpoint, updater, run)
    for iteration in range(first, settings.iterations):
        loss = updater.update(iteration)
        done = iteration + 1
        lr = updater.lr.detach() if isinstance(updater, TrajectoryMatching) else None
        for callback in callbacks:
            callback(Progress(done, settings.iterations, loss, condensed, lr))
        if checkpoint is not None and (done % checkpoint_every == 0 or done == settings.iterations):
            save(checkpoint, updater, done, run)
    if isinstance(updater, TrajectoryMatching):
        condensed.metadata["lr"] = updater.lr.item()
    storage.requires_grad_(False)
    return condensed


def check_integer(name: str, value: Any) -> None:
    """Raises unless an argument is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _updater(
    real: RealImages,
    storage: SyntheticImages,
    settings: Settings,
    draws: Draws,
    experts: ExpertBuffer | str | os.PathLike[str] | None,
) -> Updater:
    if settings.method != "mtt":
        if experts is not None:
            raise ValueError(f"experts are for method='mtt', got them with method={settings.method!r}")
        update = DistributionMatching if settings.method == "dm" else GradientMatching
        return update(real, storage, settings, draws)
    if experts is None:
        raise ValueError("experts is missing: method='mtt' needs those of train_experts, or their folder")
    if not isinstance(experts, ExpertBuffer):
        experts = ExpertBuffer(experts)
    return TrajectoryMatching(real, storage, settings, draws, experts)


def _classes(targets: Tensor, classes: Sequence[int] | None) -> list[int]:
    present: list[int] = targets.unique().tolist()
    if classes is None:
        return present
    classes = [int(label) for label in classes]
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be different labels, at least one, got {classes}")
    if missing := sorted(set(classes) - set(present)):
        raise ValueError(f"classes {missing} have no samples; targets holds the classes {present}")
    return classes


def _start(real: RealImages, settings: Settings, draws: Draws) -> SyntheticImages:
    """Returns the images before the first update."""
    channels, height, width = real.images.shape[1:]
    budget, rank, num_classes = settings.images_per_class, settings.rank, len(real.classes)
    count = budget
    storage: SyntheticImages
    if rank is None:
        storage = PixelImages(budget * num_classes, channels, height, width)
    else:
        LowRankImages(1, channels, height, width, rank)  # the rank is to be refused before the budget
        if not settings.keep_ipc:
            count = equivalent_images_per_class(budget, height, width, rank, rounding=settings.rounding)
        storage = LowRankImages(count * num_classes, channels, height, width, rank)
    if settings.init == "noise":
        shapes = {name: (count, *parameter.shape[1:]) for name, parameter in storage.named_parameters()}
        storage.fill_noise_(
            torch.cat([draws.noise(shape, name, label) for label in real.classes]) for name, shape in shapes.items()
        )
        return storage
    chosen = []
    for label, members in zip(real.classes, real.members, strict=True):
        if len(members) < count:
            raise ValueError(
                f"init={settings.init!r} needs {count} samples of each class, class {label} has {len(members)}; "
                "use init='noise'"
            )
        chosen.append(draws.real(members, count, "init", label))
    storage.fill_(real.images[torch.cat(chosen).to(real.images.device)].cpu())
    return storage


def _as_json(settings: Settings) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return content
