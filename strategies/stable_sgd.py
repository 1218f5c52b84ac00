"""Stable SGD: a learning rate that falls from task to task, which with dropout and small batches widens the minima.

References:
    [1] S. Mirzadeh et al. Understanding the Role of Training Regimes in Continual Learning. NeurIPS 2020,
        arXiv:2006.06958.
    [2] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, arXiv:2105.05155. Authors' code: github.com/pranshu28/TAG (MIT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins.evaluation import EvaluationPlugin, default_evaluator
from torch import Tensor, nn

from ._entries import check_number
from .templates import Template

__all__ = ["StableSGD", "StableSGDPlugin"]


class StableSGDPlugin(SupervisedPlugin):
    r"""Lowers the learning rate from task to task, as in [2].

    In the t-th experience that is trained, counted from 1, it is :math:`\max(\eta \gamma^t, \eta_{min})`, so the first
    one has :math:`\eta \gamma` already. Here :math:`\eta` is the learning rate of the optimizer at the first training.
    Each part of an online stream counts as an experience.
    Dropout, the other half of the method, is an option of the network, such as
    :class:`clpack.models.ReducedResNet18`.

    Args:
        gamma: the factor, in (0, 1].
        min_lr: the smallest learning rate.

    Raises:
        ValueError: if an argument is out of range; in training, if the strategy has another plugin of this class.
        TypeError: if an argument is not a number.
    """

    def __init__(self, gamma: float = 0.9, min_lr: float = 5e-5) -> None:
        super().__init__()
        check_number("gamma", gamma, interval="(0, 1]")
        check_number("min_lr", min_lr, minimum=0)
        self.gamma = gamma
        self.min_lr = min_lr
        self._first_rates: list[float] = []

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Notes the first learning rate."""
        if sum(isinstance(plugin, StableSGDPlugin) for plugin in strategy.plugins) > 1:
            raise ValueError("the strategy has more than one StableSGDPlugin; drop yours, StableSGD brings one")
        if not self._first_rates:
            self._first_rates = [group["lr"] for group in strategy.optimizer.param_groups]

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Sets the learning rate of the experience."""
        task = strategy.clock.train_exp_counter + 1
        for group, rate in zip(strategy.optimizer.param_groups, self._first_rates, strict=True):
            group["lr"] = max(rate * self.gamma**task, self.min_lr)


class StableSGD(Template):
    """Plain SGD with the learning rate of :class:`StableSGDPlugin`.

    Args:
        model: the network, with dropout.
        lr: learning rate before the first task, positive.
        gamma: its factor from task to task, in (0, 1].
        min_lr: the smallest learning rate.
        criterion: the loss.
        train_mb_size: samples per training batch.
        train_epochs: epochs per experience.
        eval_mb_size: samples per evaluation batch, ``None`` for ``train_mb_size``.
        device: where the model is trained.
        autocast: ``torch.bfloat16`` for mixed precision.
        plugins: further Avalanche plugins; the list is copied.
        evaluator: as in every Avalanche strategy.
        eval_every: as in every Avalanche strategy.
        peval_mode: as in every Avalanche strategy.
        base_kwargs: passed on to Avalanche's template.

    Raises:
        ValueError: if an option is out of range.
        TypeError: if ``lr``, ``gamma`` or ``min_lr`` is not a number.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        lr: float,
        gamma: float = 0.9,
        min_lr: float = 5e-5,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        autocast: torch.dtype | None = None,
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        **base_kwargs: Any,
    ) -> None:
        check_number("lr", lr, interval="(0, inf)")
        super().__init__(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr),
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            autocast=autocast,
            plugins=[StableSGDPlugin(gamma, min_lr), *(plugins or [])],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
            **base_kwargs,
        )
