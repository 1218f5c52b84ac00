"""When EpochLoss's training lowers the learning rate, keeps weights, and stops.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Literal

__all__ = ["Plateau", "multistep_milestones"]

Decision = Literal["store", "continue", "reduce", "stop"]


class Plateau:
    """Lowers the learning rate when the accuracy no longer rises, and stops when it has become too small [1].

    The accuracy of the validation data is measured every ``interval`` epochs and after the last one. Better than all
    before: the weights are worth storing. Not better for ``patience`` epochs: the learning rate is multiplied by
    ``factor``, and if that makes it smaller than ``min_lr``, training ends. At the end the stored weights are the
    result; if no accuracy was above 0, there are none, and the last weights are it::

        plateau = Plateau(lr=0.1)
        for epoch in range(1, num_epochs + 1):
            ...  # train an epoch with the learning rate plateau.lr
            if plateau.is_due(epoch, num_epochs):
                decision = plateau.update(accuracy)
                if decision == "store":
                    ...  # keep a copy of the weights
                if plateau.finished:
                    break

    With the defaults, those of [1], a flat curve has four learning rates and ends after 85 epochs. It is not
    ``torch.optim.lr_scheduler.ReduceLROnPlateau``, which has no end and counts calls instead of epochs.

    Args:
        lr: the first learning rate, positive.
        factor: the learning rate is multiplied by it, in (0, 1).
        min_lr: training ends when the learning rate would fall below it; positive.
        patience: epochs without a better accuracy before the learning rate falls, positive.
        interval: epochs between evaluations, positive. Every evaluation uses up so many epochs of patience, even the
            one after the last epoch.

    Attributes:
        lr: the learning rate to train with.
        best: the best accuracy so far; 0 at first.
        finished: whether training is to end.
        patience_left: epochs without a better accuracy that are left before the learning rate falls.

    Raises:
        ValueError: if an argument is out of range.
        TypeError: if epochs are no whole number.
    """

    def __init__(
        self, lr: float = 0.1, *, factor: float = 0.1, min_lr: float = 1e-4, patience: int = 20, interval: int = 5
    ) -> None:
        for name, value in (("lr", lr), ("min_lr", min_lr), ("patience", patience), ("interval", interval)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name, value in (("patience", patience), ("interval", interval)):
            if not isinstance(value, Integral):
                raise TypeError(f"{name} must be a whole number of epochs, got {value!r}")
        if not 0.0 < factor < 1.0:
            raise ValueError(f"factor must be in (0, 1), got {factor}")
        if lr < min_lr:
            raise ValueError(f"lr must be at least min_lr = {min_lr}, got {lr}")
        self.lr = lr
        self.factor = factor
        self.min_lr = min_lr
        self.patience = patience
        self.interval = interval
        self.best = 0.0
        self.finished = False
        self.patience_left = patience

    def is_due(self, epoch: int, num_epochs: int) -> bool:
        """Whether to evaluate after epoch ``epoch`` (1-based) of ``num_epochs``."""
        return epoch % self.interval == 0 or epoch == num_epochs

    def update(self, accuracy: float) -> Decision:
        """Takes the accuracy of an evaluation, in any unit, and says what follows.

        Returns:
            ``"store"``: it is the best so far, keep the weights; ``"continue"``; ``"reduce"``: continue with the new,
            lower :attr:`lr`; or ``"stop"``.

        Raises:
            ValueError: if ``accuracy`` is NaN.
            RuntimeError: if training was to end already.
        """
        if math.isnan(accuracy):
            raise ValueError("accuracy must be a number, got NaN")
        if self.finished:
            raise RuntimeError("training is finished: make a new Plateau for the next one")
        if accuracy > self.best:
            self.best = accuracy
            self.patience_left = self.patience
            return "store"
        self.patience_left -= self.interval
        if self.patience_left > 0:
            return "continue"
        lower = self.lr * self.factor
        if lower < self.min_lr:
            self.finished = True
            return "stop"
        self.lr = lower
        self.patience_left = self.patience
        return "reduce"

    def state_dict(self) -> dict[str, Any]:
        """Returns where the rule stands and its settings, as numbers."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from what :meth:`state_dict` returned.

        Raises:
            ValueError: if ``state_dict`` is not that of a ``Plateau``.
        """
        if state_dict.keys() != vars(self).keys():
            raise ValueError(f"state_dict must have {sorted(vars(self))}, got {sorted(state_dict)}")
        vars(self).update(state_dict)


def multistep_milestones(num_epochs: int) -> list[int]:
    """The epochs of EpochLoss's fixed schedule, which multiplies the learning rate by 0.2 after each [1].

    They are 2/5, 3/5 and 4/5 of the epochs, rounded (the authors' code changes nothing where one is a fraction), for
    ``torch.optim.lr_scheduler.MultiStepLR(optimizer, multistep_milestones(num_epochs), gamma=0.2)``.

    Raises:
        ValueError: if ``num_epochs`` is not positive.
    """
    if num_epochs < 1:
        raise ValueError(f"num_epochs must be positive, got {num_epochs}")
    return [max(1, round(num_epochs * fifths / 5)) for fifths in (2, 3, 4)]
