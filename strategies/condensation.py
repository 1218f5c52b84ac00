"""Continual learning with condensed images: as replay beside the data, or as all there is to train on.

References:
    [1] E. Yang et al. An Efficient Dataset Condensation Plugin and Its Application to Continual Learning. NeurIPS 2023.
        Authors' code: github.com/EnnengYang/An-Efficient-Dataset-Condensation-Plugin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader
from avalanche.core import SupervisedPlugin
from avalanche.training import plugins as avalanche_plugins
from avalanche.training.plugins.evaluation import EvaluationPlugin, default_evaluator
from torch import Tensor, nn

from clpack.condensation import DSA_NATURAL, CondensedSet, Progress, augment, dc_augment
from clpack.condensation._draws import Network, random_network
from clpack.condensation.condense import check_integer
from clpack.randomness import generator_for

from .condensed_memory import CondensedBuffer, Method, Precision
from .impressions import ClassImpressionPlugin
from .infobatch import InfoBatchPlugin
from .pruning import PruningPlugin
from .subnetworks import SubnetworkPlugin
from .tag import TAGPlugin
from .tag_baselines import ReservoirERPlugin, RingAGEMPlugin, RunningEWCPlugin
from .templates import Template, check_not_empty

__all__ = ["CondensedReplay", "CondensedReplayPlugin"]

Family = Literal["dsa", "dc"]

_LATE_RATE = 0.1  # of the learning rate, in the second half of training on the memory alone
#: Plugins that need samples of the stream in training, or the network of the experience before.
_NOT_WITH_MEMORY_ONLY = (
    PruningPlugin,
    InfoBatchPlugin,
    SubnetworkPlugin,
    TAGPlugin,
    ClassImpressionPlugin,
    RunningEWCPlugin,
    RingAGEMPlugin,
    ReservoirERPlugin,
    avalanche_plugins.EWCPlugin,
    avalanche_plugins.SynapticIntelligencePlugin,
    avalanche_plugins.MASPlugin,
    avalanche_plugins.RWalkPlugin,
    avalanche_plugins.LwFPlugin,
    avalanche_plugins.LFLPlugin,
    avalanche_plugins.FeatureDistillationPlugin,
    avalanche_plugins.GEMPlugin,
    avalanche_plugins.AGEMPlugin,
    avalanche_plugins.CWRStarPlugin,
    avalanche_plugins.GSS_greedyPlugin,
    avalanche_plugins.GenerativeReplayPlugin,
)


class CondensedReplayPlugin(SupervisedPlugin):
    r"""Keeps condensed images of each experience in place of samples, and trains on them.

    As replay (``memory_only=False``), every mini-batch of the experience is joined with images of the experiences
    before, and after training the experience is condensed. Works alone and beside EWC, LwF, TAG, multi-head models,
    growing heads and checkpoints; put it after :class:`~clpack.strategies.PruningPlugin`, whose kept samples are what
    is condensed.

    As the protocol of [1] (``memory_only=True``), the experience is condensed first; then the model gets new random
    weights, the optimizer begins anew, and the training is on the condensed images of all experiences so far only.
    Their mini-batches are augmented, each image for itself. After the epoch number
    :math:`\lfloor (E - 1) / 2 \rfloor + 1` of :math:`E`, counted from 0, the momentum starts anew and updates are made
    with a tenth of the learning rate. The rate that the optimizer shows between updates is the whole one, so schedulers
    may change it at any time; but with images by MTT, whose learning rate was learned with them, updates are made with
    that one, or the mean of those of several experiences. A run that is resumed inside an experience prepares it again:
    with ``save_to`` what was condensed is read from there, without it the experience is condensed again, to the same
    images.

    Args:
        method: see :class:`CondensedBuffer`, like the arguments that are not described here.
        rank: of the factors; None or 0 stores pixels.
        memory_bytes: bytes of the whole memory; or
        images_per_class: the memory of each class in plain images.
        memory_only: which of the two.
        batch_size_mem: images of the memory in a mini-batch of replay. Default: ``train_mb_size``.
        augmentation: of mini-batches with ``memory_only``, a strategy of :func:`clpack.condensation.augment`; the same
            for all methods. Default: all operations, as in [1]; for digits leave mirroring out, ``DSA_DIGITS``.
        augmentation_family: ``"dc"`` if it is one of :func:`clpack.condensation.dc_augment`.
        matching_augmentation: the option ``augmentation`` of the condensation. Default: that of the method.
        precision: of stored numbers.
        condensed: a set made before, of all classes.
        network: what condenses.
        mean: of each channel, for pictures.
        std: of each channel, for pictures.
        seed: of condensation, new weights and augmentation.
        callbacks: of the condensation.
        save_to: folder for the memory and its picture after each experience, and for interrupted condensations.
        options: further options of :class:`CondensedBuffer`, by name, such as ``iterations``.

    Attributes:
        storage_policy: the :class:`CondensedBuffer`.

    Raises:
        ValueError, TypeError: see :class:`CondensedBuffer`; if an argument does not go with ``memory_only``; in
            training with ``memory_only``, if a part of the model cannot get new weights because its module has no
            ``reset_parameters``, the learning rate that MTT has learned is not positive, or the strategy has a plugin
            that replays, prunes, or needs the network of the experience before, such as EWC and LwF.
    """

    def __init__(
        self,
        method: Method = "dm",
        rank: int | None = 2,
        *,
        memory_bytes: int | None = None,
        images_per_class: int | None = None,
        memory_only: bool = False,
        batch_size_mem: int | None = None,
        augmentation: str | None = None,
        augmentation_family: Family = "dsa",
        matching_augmentation: str | None = None,
        precision: Precision = "float32",
        condensed: CondensedSet | None = None,
        network: Network = "ConvNet",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        callbacks: Sequence[Callable[[Progress], None]] = (),
        save_to: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if memory_only and batch_size_mem is not None:
            raise ValueError(
                f"batch_size_mem is for replay beside other data, got {batch_size_mem} with memory_only=True; set "
                "train_mb_size"
            )
        if batch_size_mem is not None:
            check_integer("batch_size_mem", batch_size_mem)
        if augmentation is not None and not memory_only:
            raise ValueError(
                f"augmentation is for memory_only=True, got {augmentation!r}; matching_augmentation is that of the "
                "condensation"
            )
        if matching_augmentation is not None:
            options["augmentation"] = matching_augmentation
        self.memory_only = memory_only
        self.batch_size_mem = batch_size_mem
        if augmentation_family not in get_args(Family):
            raise ValueError(f"augmentation_family must be 'dsa' or 'dc', got {augmentation_family!r}")
        self.augmentation = DSA_NATURAL if augmentation is None else augmentation
        self.augmentation_family = augmentation_family
        self._generator = torch.Generator()
        self._augmented(torch.zeros(1, 1, 8, 8))  # complains at once
        self.seed = seed
        self.storage_policy = CondensedBuffer(
            method,
            rank,
            memory_bytes=memory_bytes,
            images_per_class=images_per_class,
            precision=precision,
            condensed=condensed,
            network=network,
            mean=mean,
            std=std,
            seed=seed,
            callbacks=callbacks,
            save_to=save_to,
            **options,
        )
        self._size = 0  # samples of the experience when it was checked
        self._rates: list[Any] = []  # learning rates to go back to after an update
        self._learned_lr: float | None = None

    @property
    def save_to(self) -> str | os.PathLike[str] | None:
        """Folder for the memory after each experience."""
        return self.storage_policy.save_to

    @save_to.setter
    def save_to(self, folder: str | os.PathLike[str] | None) -> None:
        self.storage_policy.save_to = folder

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Checks what goes together, and forgets an update that was interrupted."""
        if not self.memory_only:
            return
        self.after_update(strategy)
        for plugin in strategy.plugins:
            replays = plugin is not self and getattr(plugin, "storage_policy", None) is not None
            if replays or isinstance(plugin, _NOT_WITH_MEMORY_ONLY):
                raise ValueError(
                    f"{type(plugin).__name__} needs samples of the stream, or the network of the experience before; "
                    "with memory_only=True a new network is trained on condensed images only. Leave it out, or take "
                    "memory_only=False"
                )
        for name, module in strategy.model.named_modules():
            if module._parameters and not hasattr(module, "reset_parameters"):
                raise ValueError(
                    f"memory_only=True gives the model new random weights, but its module {name or 'itself'!r}, a "
                    f"{type(module).__name__}, has parameters and no reset_parameters(); add that method"
                )

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Checks the budget and the network."""
        check_not_empty(strategy.experience)
        self.storage_policy.check(strategy.experience)

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Condenses the experience, and trains on the memory, if that is all there is to be."""
        if self.memory_only:
            self.storage_policy.add(strategy, strategy.experience)
            strategy.adapted_dataset = self.storage_policy.buffer.train()

    def before_training_exp(
        self,
        strategy: Any,
        num_workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        **kwargs: Any,
    ) -> None:
        """Joins the memory with the data; or begins anew with model and optimizer."""
        if self.memory_only:
            self._learned_lr = self.storage_policy.learned_lr
            if self._learned_lr is not None and not self._learned_lr > 0:
                raise ValueError(
                    f"method='mtt' has learned the learning rate {self._learned_lr:g}, with which nothing can be "
                    "trained; lower lr_img or lr_lr"
                )
            self._begin_anew(strategy)
            return
        self._check_again(strategy)
        if len(self.storage_policy):
            strategy.dataloader = ReplayDataLoader(
                strategy.adapted_dataset,
                self.storage_policy.buffer,
                oversample_small_tasks=True,
                batch_size=strategy.train_mb_size,
                batch_size_mem=self.batch_size_mem or strategy.train_mb_size,
                num_workers=num_workers,
                shuffle=shuffle,
                drop_last=drop_last,
            )

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the random stream of the epoch, and checks what scoring has left."""
        if not self.memory_only and len(strategy.experience.dataset) != self._size:
            self._check_again(strategy)
        period = (strategy.clock.train_exp_counter, strategy.clock.train_exp_epochs)
        self._generator = generator_for(self.seed, "memory augmentation", *period)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Augments the mini-batch."""
        if self.memory_only:
            strategy.mbatch[0] = self._augmented(strategy.mb_x)

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Takes the learned learning rate for the update, if there is one, and lowers it, if it is late."""
        if not self.memory_only:
            return
        late = strategy.clock.train_exp_epochs > self._last_early_epoch(strategy)
        if late or self._learned_lr is not None:
            self._rates = [group["lr"] for group in strategy.optimizer.param_groups]
            for group in strategy.optimizer.param_groups:
                rate = group["lr"] if self._learned_lr is None else self._learned_lr
                group["lr"] = rate * _LATE_RATE if late else rate  # not in place: it may be a tensor

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Puts the learning rate back."""
        for group, rate in zip(strategy.optimizer.param_groups, self._rates, strict=False):
            group["lr"] = rate
        self._rates = []

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Forgets the momentum, if it is time."""
        if self.memory_only and strategy.clock.train_exp_epochs == self._last_early_epoch(strategy):
            strategy.optimizer.state.clear()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Condenses the experience, if that was not done before."""
        if self.memory_only:
            self.storage_policy.clean_up(strategy.experience)
        else:
            self.storage_policy.post_adapt(strategy, strategy.experience)

    def _last_early_epoch(self, strategy: Any) -> int:
        return int(strategy.train_epochs - 1) // 2 + 1

    def _check_again(self, strategy: Any) -> None:
        """Checks what other plugins have left of the experience, or added to its fields."""
        self.storage_policy.check(strategy.experience)
        self._size = len(strategy.experience.dataset)

    def _augmented(self, images: Tensor) -> Tensor:
        if self.augmentation_family == "dc":
            return dc_augment(images, self.augmentation, generator=self._generator)
        return augment(images, self.augmentation, generator=self._generator, siamese=False)

    def _begin_anew(self, strategy: Any) -> None:
        def new_weights() -> nn.Module:
            for module in strategy.model.modules():
                if module._parameters:
                    module.reset_parameters()
            model: nn.Module = strategy.model
            return model

        current = strategy.experience.current_experience
        random_network(new_weights, torch.device(strategy.device), self.seed, "model", current)
        strategy.optimizer.state.clear()


class CondensedReplay(Template):
    """The continual-learning protocol of [1]: a new network for every experience, trained on condensed images only.

    It is a :class:`CondensedReplayPlugin` with ``memory_only=True``, and its defaults are those of [1] for CIFAR-10::

        strategy = CondensedReplay(model=ConvNet(), condensation_options={"iterations": 2000})

    Args:
        model: the network; all its modules with parameters must have ``reset_parameters``.
        optimizer: an optimizer of its parameters. Default: SGD with learning rate 0.01, momentum 0.9 and weight decay
            5e-4.
        criterion: the loss. Default: cross-entropy.
        train_mb_size: images per training batch.
        train_epochs: epochs per experience.
        eval_mb_size: samples per evaluation batch, ``None`` for ``train_mb_size``.
        device: where the model is trained and data are condensed.
        autocast: ``torch.bfloat16`` for mixed precision.
        plugins: further Avalanche plugins, which come first; the list is copied.
        evaluator: as in every Avalanche strategy.
        eval_every: as in every Avalanche strategy.
        peval_mode: as in every Avalanche strategy.
        method: see :class:`CondensedBuffer`, like the following.
        rank: of the factors; None or 0 stores pixels.
        memory_bytes: bytes of the whole memory; or
        images_per_class: the memory of each class in plain images. Default: 10, unless bytes are given.
        augmentation: of mini-batches, see :class:`CondensedReplayPlugin`.
        seed: of condensation, new weights and augmentation.
        save_to: folder for the memory after each experience.
        condensation_options: further options of :class:`CondensedReplayPlugin`, by name.
        base_kwargs: passed on to Avalanche's template.

    Raises:
        ValueError, TypeError: see :class:`CondensedReplayPlugin`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        train_mb_size: int = 256,
        train_epochs: int = 1001,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        autocast: torch.dtype | None = None,
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        method: Method = "dm",
        rank: int | None = 2,
        memory_bytes: int | None = None,
        images_per_class: int | None = None,
        augmentation: str = DSA_NATURAL,
        seed: int = 0,
        save_to: str | os.PathLike[str] | None = None,
        condensation_options: Mapping[str, Any] | None = None,
        **base_kwargs: Any,
    ) -> None:
        if optimizer is None:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        replay = CondensedReplayPlugin(
            method,
            rank,
            memory_bytes=memory_bytes,
            images_per_class=images_per_class,
            memory_only=True,
            augmentation=augmentation,
            seed=seed,
            save_to=save_to,
            **(condensation_options or {}),
        )
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            autocast=autocast,
            plugins=[*(plugins or []), replay],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
            **base_kwargs,
        )
