"""Training on attacked or corrupted images, and accuracy on them.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation import PluginMetric
from avalanche.models import MultiTaskModule
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clpack.attacks import CORRUPTIONS, corrupt, corruptions, pgd
from clpack.names import unknown_name
from clpack.randomness import generator_for

from .evaluation import AccuracyMatrix
from .pruning import is_scoring
from .templates import Template

__all__ = ["AdversarialTrainingPlugin", "Attack", "AttackedAccuracyMatrix", "robust_accuracy_metrics"]

# arguments of attacks that are no options, but given with each batch
_OF_BATCH = ("model", "images", "targets", "task_labels", "noise", "signs", "start_noise", "generator")
_ROUNDING = 1e-4  # how far pixels may be outside of [0, 1]


@dataclass(frozen=True)
class Attack:
    """A way to make images harder to classify.

    Args:
        name: ``"pgd"`` (:func:`clpack.attacks.pgd`), or one of :data:`clpack.attacks.CORRUPTIONS`.
        options: arguments of that function: ``eps``, ``step_size``, ``steps``, ``random_start`` and ``mode`` of PGD;
            ``severity``, and what else a corruption has. Defaults: those of [1].

    Raises:
        ValueError: if there is no such attack, or an option is out of range.
        TypeError: if there is no such option, or it is of the wrong type.
    """

    name: str = "pgd"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = _defaults(self.name)
        if unknown := [key for key in self.options if key not in known]:
            raise TypeError(unknown_name(f"{self.name} option", unknown[0], known))
        self(nn.Flatten(), torch.zeros(1, 3, 2, 2), torch.zeros(1, dtype=torch.int64), None, torch.Generator())

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        task_labels: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns images of the same shape.

        Args:
            model: the model to deceive; corruptions do not need it.
            images: shape ``(B, C, H, W)``, pixels in [0, 1].
            targets: int64 tensor of shape ``(B,)``.
            task_labels: int64 tensor of shape ``(B,)``, for models that take them; None for others.
            generator: where random parts are drawn from, on the device of the images.
        """
        if self.name == "pgd":
            return pgd(model, images, targets, task_labels=task_labels, generator=generator, **self.options)
        return corrupt(images, self.name, generator=generator, **self.options)

    def of_batch(self, strategy: Any, generator: torch.Generator) -> Tensor:
        """Returns the images of the current mini-batch of a strategy, attacked."""
        model = strategy.model
        network = model.module if isinstance(model, DistributedDataParallel) else model
        labels = strategy.mb_task_id if isinstance(network, MultiTaskModule) else None
        with strategy._precision() if isinstance(strategy, Template) else contextlib.nullcontext():
            return self(model, strategy.mb_x, strategy.mb_y, labels, generator)

    def check_pixels(self, images: Tensor) -> None:
        """Raises unless the pixels of images are in [0, 1], at the cost of a host synchronization.

        Args:
            images: tensor of any shape that is not empty.

        Raises:
            ValueError: if there are pixels outside of [0, 1], by more than rounding.
        """
        low, high = torch.stack(images.aminmax()).tolist()
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise ValueError(
                f"the attack {self.name!r} needs pixels in [0, 1], got values from {low:.5g} to {high:.5g}; leave the "
                "normalization to the model, e.g. nn.Sequential(Normalize(mean, std), model), not to the transforms"
            )

    def __str__(self) -> str:
        """Returns the name with the options that are not the defaults, e.g. ``pgd_eps=0.5``."""
        changed = [key for key, value in _defaults(self.name).items() if self.options.get(key, value) != value]
        return "_".join([self.name, *(f"{key}={self.options[key]}" for key in changed)])


class AdversarialTrainingPlugin(SupervisedPlugin):
    """Trains on attacked images instead of clean ones.

    Every training mini-batch, replayed samples included, is replaced by its attacked version just before the forward
    pass; there is no clean half, as in [1]. The scoring phase of a :class:`~clpack.strategies.PruningPlugin` stays
    clean. Pixels must be in [0, 1]: leave out transforms that normalize, or normalize in the model. The first batch of
    each experience is checked.

    Args:
        attack: the name of an :class:`Attack`.
        seed: of what the attack draws, for each epoch anew; no global generator is drawn from.
        options: of the attack.

    Raises:
        ValueError, TypeError: see :class:`Attack`; in training, if pixels are not in [0, 1].
    """

    def __init__(self, attack: str = "pgd", *, seed: int = 0, **options: Any) -> None:
        super().__init__()
        self.attack = Attack(attack, options)
        self.seed = seed
        self._generator = torch.Generator()

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the random stream of the epoch."""
        clock = strategy.clock
        period = (clock.train_exp_counter, clock.train_exp_epochs)
        self._generator = generator_for(self.seed, "training attack", *period, device=strategy.device)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Checks the first mini-batch of an experience, which no plugin of this kind has attacked yet."""
        if strategy.clock.train_exp_iterations == 0:
            self.attack.check_pixels(strategy.mb_x)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Attacks the mini-batch."""
        if not is_scoring(strategy):
            strategy.mbatch[0] = self.attack.of_batch(strategy, self._generator)


class AttackedAccuracyMatrix(AccuracyMatrix):
    """The :class:`~clpack.strategies.AccuracyMatrix` of the accuracies on attacked images.

    Its values are named like those of the clean one with the attack after the name, and with its options that are not
    the defaults: ``Average_Accuracy_pgd/eval_phase/test_stream``, ``Average_Accuracy_pgd_eps=0.5/eval_phase/...``.
    Experiences that were not trained yet are not attacked. What an attack draws depends on ``seed`` and the experience
    only, so every evaluation of a model gives the same number. Pixels must be in [0, 1]; the first batch of each
    experience is checked.

    Args:
        attack: what is done to the images of every evaluation mini-batch.
        stream_name: the stream to watch; evaluations of others are ignored.
        seed: of what the attack draws.

    Raises:
        ValueError: in evaluation, if pixels are not in [0, 1].
    """

    def __init__(self, attack: Attack, stream_name: str = "test", *, seed: int = 0) -> None:
        super().__init__(stream_name)
        self.attack = attack
        self.seed = seed
        self.suffix = f"_{attack}"
        self._generator = torch.Generator()

    def before_eval_exp(self, strategy: Any) -> None:
        super().before_eval_exp(strategy)
        names = ("evaluation attack", self.attack.name, strategy.experience.current_experience)
        self._generator = generator_for(self.seed, *names, device=strategy.device)

    def after_eval_iteration(self, strategy: Any) -> None:
        experience = strategy.experience
        if experience.origin_stream.name != self.stream_name or experience.current_experience not in self._order:
            return
        if self._correct is None:  # the first batch
            self.attack.check_pixels(strategy.mb_x)
        clean_batch, clean_output = strategy.mbatch, strategy.mb_output
        strategy.mbatch = [self.attack.of_batch(strategy, self._generator), *clean_batch[1:]]
        strategy.mb_output = strategy.forward()
        super().after_eval_iteration(strategy)
        strategy.mbatch, strategy.mb_output = clean_batch, clean_output

    def __str__(self) -> str:
        return f"Accuracy_Matrix{self.suffix}"


def robust_accuracy_metrics(
    attacks: Sequence[str] = ("pgd",), *, stream_name: str = "test", seed: int = 0, **options: Any
) -> list[PluginMetric[Any]]:
    """Accuracy on attacked images, in the form that ``EvaluationPlugin`` takes.

    Args:
        attacks: names of :class:`Attack`; for the clean accuracy see
            :func:`~clpack.strategies.average_accuracy_metrics`.
        stream_name: the stream to watch.
        seed: of what the attacks draw.
        options: arguments of the attacks, e.g. ``eps=0.03`` or ``severity=3``; each attack takes those that it has.

    Returns:
        A list with one :class:`AttackedAccuracyMatrix` for each attack.

    Raises:
        ValueError, TypeError: see :class:`Attack`; and if ``attacks`` is a string, or no attack has a given option.
    """
    if isinstance(attacks, str):
        raise TypeError(f"attacks must be a sequence of names, got the string {attacks!r}; write ({attacks!r},)")
    own = {
        name: {key: value for key, value in options.items() if key in _defaults(name)}
        for name in dict.fromkeys(attacks)
    }
    taken = {key for chosen in own.values() for key in chosen}
    if unknown := [key for key in options if key not in taken]:
        raise TypeError(f"none of the attacks {', '.join(own)} has an option {unknown[0]!r}; see clpack.attacks")
    return [AttackedAccuracyMatrix(Attack(name, chosen), stream_name, seed=seed) for name, chosen in own.items()]


def _defaults(attack: str) -> dict[str, Any]:
    """Returns the options of an attack with their defaults, in the order of its function."""
    names = ("pgd", *CORRUPTIONS)
    if attack not in names:
        raise ValueError(unknown_name("attack", attack, names))
    parameters = inspect.signature(pgd if attack == "pgd" else getattr(corruptions, attack)).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in _OF_BATCH}
