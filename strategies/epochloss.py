"""EpochLoss as one strategy: score, select, go back, train on what is kept, prune weights, fine-tune.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins.evaluation import EvaluationPlugin, default_evaluator
from torch import Tensor, nn

from clpack.optim import Plateau

from .adversarial import AdversarialTrainingPlugin
from .heads import MultiHeadModel, with_head
from .plateau import PlateauPlugin
from .pruning import PruningPlugin
from .subnetworks import SubnetworkPlugin
from .templates import Template

__all__ = ["EpochLoss"]


class EpochLoss(Template):
    """The three steps of [1] for every task: scoring, selection, training on the samples kept in a subnetwork.

    It is made of plugins that also work alone: :class:`~clpack.strategies.PruningPlugin`,
    :class:`~clpack.strategies.SubnetworkPlugin`, :class:`~clpack.strategies.AdversarialTrainingPlugin` and
    :class:`~clpack.strategies.PlateauPlugin`. The stream must be task-incremental. The defaults are those of the
    published runs but for ``class_cap``, which is ``None`` as in their text and ``"balanced"`` in their code.

    Args:
        model: a network with ``features``, ``num_features`` and ``linear``, such as
            :class:`clpack.models.GenImageResNet18`; its head is replaced by one for every task.
        lr: the first learning rate, of SGD with Nesterov momentum. Default: 0.1.
        momentum: of SGD. Default: 0.9.
        score: see :class:`~clpack.strategies.PruningPlugin`; ``"epoch_loss"``, ``"epoch_accuracy"``, ``"caper"`` and
            ``"random"`` are those of [1]. None: no scoring and no removal.
        remove_fraction: of each task's samples.
        class_cap: None, a number of samples or ``"balanced"``, see :func:`clpack.pruning.select`.
        min_per_class: see :class:`~clpack.strategies.PruningPlugin`, like ``save_to``.
        save_to: folder for scores, kept and removed samples of each experience.
        score_options: further arguments of the score.
        reset: see :class:`~clpack.strategies.PruningPlugin`.
        scoring_epochs: epochs of the first step.
        train_epochs: epochs of the third step, at most.
        finetune_epochs: epochs after the weights are pruned, at most.
        prune_fraction: see :class:`~clpack.strategies.SubnetworkPlugin`.
        bn: see :class:`~clpack.strategies.SubnetworkPlugin`.
        attack: what training images are attacked with in the third step and in fine-tuning, see
            :class:`~clpack.strategies.AdversarialTrainingPlugin`. Default: None, clean training.
        attack_options: of the attack.
        plateau: settings of :class:`~clpack.strategies.PlateauPlugin`, which needs a validation stream. None: constant
            learning rate. Default: its defaults.
        pretrained_path: a safetensors file with weights of ``model``, loaded before the first task, but for the head;
            see :class:`~clpack.strategies.SubnetworkPlugin`.
        seed: of random scores, ties and attacks.
        criterion: the loss. Default: cross-entropy.
        train_mb_size: samples per training batch. Default: 128.
        eval_mb_size: samples per evaluation batch, ``None`` for ``train_mb_size``. The networks of [1] normalize by the
            statistics of the batch in evaluation too.
        device: where the model is trained.
        autocast: ``torch.bfloat16`` for mixed precision.
        plugins: further Avalanche plugins, which come first; the list is copied.
        evaluator: as in every Avalanche strategy.
        eval_every: as in every Avalanche strategy.
        peval_mode: as in every Avalanche strategy.
        base_kwargs: passed on to Avalanche's template.

    Raises:
        ValueError, TypeError: see the plugins; if the weights of ``pretrained_path`` are not those of the model.
        FileNotFoundError: if there is no such file.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        lr: float = 0.1,
        momentum: float = 0.9,
        score: str | None = "epoch_loss",
        remove_fraction: float = 0.4,
        class_cap: int | Literal["balanced"] | None = None,
        min_per_class: int | None = None,
        save_to: str | os.PathLike[str] | None = None,
        score_options: Mapping[str, Any] | None = None,
        reset: bool = True,
        scoring_epochs: int = 50,
        train_epochs: int = 300,
        finetune_epochs: int = 150,
        prune_fraction: float = 0.65,
        bn: Literal["shared", "per_task"] = "shared",
        attack: str | None = None,
        attack_options: Mapping[str, Any] | None = None,
        plateau: Mapping[str, Any] | None = {},
        pretrained_path: str | os.PathLike[str] | None = None,
        seed: int = 0,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        train_mb_size: int = 128,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        autocast: torch.dtype | None = None,
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(model, MultiHeadModel):
            model = with_head(model, "multi")
        own: list[SupervisedPlugin] = []
        if score is not None:
            own.append(
                PruningPlugin(
                    score,
                    remove_fraction=remove_fraction,
                    scoring_epochs=scoring_epochs,
                    reset=reset,
                    score_options=score_options,
                    class_cap=class_cap,
                    min_per_class=min_per_class,
                    save_to=save_to,
                    seed=seed,
                )
            )
        subnetworks = SubnetworkPlugin(
            prune_fraction=prune_fraction, finetune_epochs=finetune_epochs, bn=bn, pretrained_path=pretrained_path
        )
        subnetworks.attach(model)
        own.append(subnetworks)
        if attack is not None:
            own.append(AdversarialTrainingPlugin(attack, seed=seed, **(attack_options or {})))
        elif attack_options:
            raise ValueError(f"attack_options is {dict(attack_options)}, but no attack is given; name one")
        if plateau is not None:
            if not isinstance(plateau, Mapping):
                raise TypeError(f"plateau must be the settings of PlateauPlugin as a dict, or None, got {plateau!r}")
            schedule = PlateauPlugin(seed=seed, **plateau)
            Plateau(lr, **schedule.options)  # complains at once if training could not even begin
            own.append(schedule)
        super().__init__(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0),
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            autocast=autocast,
            plugins=[*(plugins or []), *own],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
            **base_kwargs,
        )
