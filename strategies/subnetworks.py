"""A subnetwork for every task inside one network.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import MetricValue
from torch import nn

from clpack.models import MaskedSubnetworks

from .heads import MultiHeadModel
from .pretraining import load_weights
from .pruning import PruningPlugin, is_scoring

__all__ = ["SubnetworkPlugin"]


class SubnetworkPlugin(SupervisedPlugin):
    """Gives every task a subnetwork of its own, which later tasks use but do not change: PackNet, as in [1].

    A task is trained for ``train_epochs`` with all weights that are still free, the smallest ``prune_fraction`` of
    them are given back, and the rest is fine-tuned for ``finetune_epochs``. Evaluation looks at each experience through
    the subnetwork of its task. The optimizer begins anew with every task and after the pruning, since a momentum would
    move weights that are to stay.

    The model must have a head for each task: ``with_head(model, "multi")`` of a network of :mod:`clpack.models`. The
    task of an experience is its task label; each comes once, or again if its training was interrupted. Put this plugin
    after :class:`~clpack.strategies.PruningPlugin`, whose scoring phase takes place in the subnetwork too, and after
    plugins that stop training early: that ends the first training, or the fine-tuning.

    Args:
        prune_fraction: the share of its own weights that a task gives back, in (0, 1).
        finetune_epochs: epochs after the pruning.
        bn: ``"shared"`` normalization as in [1], where later tasks change it, or ``"per_task"``, where an earlier task
            is never forgotten.
        pretrained_path: a safetensors file with weights of the network, such as
            :class:`~clpack.strategies.PretrainingPlugin` writes, which the first task starts from. Heads stay as they
            are, and weights that later tasks train start from what they were before, as in [1]. Default: None, none.

    Attributes:
        subnetworks: the :class:`~clpack.models.MaskedSubnetworks`; None before the first experience.
        tasks: the number of the subnetwork of each task label.

    Raises:
        ValueError: if an argument is out of range; in training, if there is another such plugin, the optimizer has
            weight decay, a task comes again or an experience has several, or the weights of ``pretrained_path`` are not
            those of the network.
        FileNotFoundError: in training, if there is no such file.
        TypeError: in training, if the model has no heads for tasks.
        RuntimeError: in training, if the task before was interrupted, or a plugin after this one stops it too early.
    """

    def __init__(
        self,
        *,
        prune_fraction: float = 0.65,
        finetune_epochs: int = 150,
        bn: Literal["shared", "per_task"] = "shared",
        pretrained_path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        layer = nn.utils.skip_init(nn.Linear, 1, 1)
        MaskedSubnetworks(nn.Sequential(layer), prune_fraction=prune_fraction, bn=bn, heads=[])  # complains at once
        if isinstance(finetune_epochs, bool) or not isinstance(finetune_epochs, int) or finetune_epochs < 0:
            raise ValueError(f"finetune_epochs must be a number of epochs, at least 0, got {finetune_epochs!r}")
        self.prune_fraction = prune_fraction
        self.finetune_epochs = finetune_epochs
        self.bn = bn
        self.pretrained_path = pretrained_path
        self.subnetworks: MaskedSubnetworks | None = None
        self.tasks: dict[int, int] = {}
        self._epochs = 0  # of the present phase that are done
        self._tuning = False
        self._unfinished: int | None = None  # task label
        self._train_epochs = 0
        self._view: Any = None

    @property
    def is_finetuning(self) -> bool:
        """Whether the weights of the task were pruned and are being fine-tuned."""
        return self._tuning

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Checks model, optimizer and plugins, and makes the subnetworks."""
        self._leave_view()
        if sum(isinstance(plugin, SubnetworkPlugin) for plugin in strategy.plugins) > 1:
            raise ValueError("the strategy has more than one SubnetworkPlugin; leave one of them out")
        if self._unfinished is not None:
            strategy.train_epochs = self._train_epochs
        if any(group.get("weight_decay") for group in strategy.optimizer.param_groups):
            raise ValueError("weight_decay must be 0: it would move the weights of earlier tasks, which are to stay")
        if self.subnetworks is None:
            self.attach(strategy.model)
        assert self.subnetworks is not None
        self.subnetworks.to(strategy.device)

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Checks that the experience is a task of its own."""
        labels = set(getattr(strategy.experience, "task_labels", ()))
        if len(labels) != 1 or labels & self.tasks.keys() - {self._unfinished}:
            raise ValueError(
                f"each experience must be a task of its own, got the task labels {sorted(labels)} after "
                f"{sorted(self.tasks)}; open the stream with return_task_id=True, and train each experience once"
            )
        if self._unfinished not in (None, *labels):
            raise RuntimeError(
                f"the training of task {self._unfinished} was interrupted; train on its experience again before others"
            )

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begins the task, or goes on with it if its training was interrupted."""
        assert self.subnetworks is not None
        label = int(strategy.experience.task_labels[0])
        self._epochs = 0
        if self._unfinished is None:
            self.subnetworks.begin_task()
            self.tasks[label] = self.subnetworks.task
            self._tuning = False
        self._unfinished, self._train_epochs = label, strategy.train_epochs
        strategy.optimizer.state.clear()
        strategy.train_epochs += self.finetune_epochs

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Goes on to fine-tuning when the first training is over, or was stopped."""
        if is_scoring(strategy):
            return
        if not self._tuning:
            if strategy._stop_training or self._epochs >= strategy.train_epochs - self.finetune_epochs:
                strategy._stop_training = self.finetune_epochs == 0
                self._prune(strategy)
        elif self._epochs >= self.finetune_epochs:  # the first training was stopped, and epochs are left over
            strategy.stop_training()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Keeps the weights and heads of earlier tasks where they are, also with a memory or a distillation of them."""
        assert self.subnetworks is not None
        self.subnetworks.mask_gradients()
        for label, head in strategy.model.heads.classifiers.items():
            if label != str(self._unfinished):
                head.zero_grad(set_to_none=True)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Counts, but for scoring epochs that come before the others."""
        plugins = [plugin for plugin in strategy.plugins if isinstance(plugin, PruningPlugin)]
        if not any(plugin.is_scoring and plugin.reset for plugin in plugins):
            self._epochs += 1

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Ends the task."""
        done = self._epochs >= strategy.train_epochs - self.finetune_epochs
        if not self._tuning and self.finetune_epochs and not done:
            raise RuntimeError(
                f"a plugin stopped the training of task {self._unfinished} before its fine-tuning; put that plugin "
                "before SubnetworkPlugin, and train on the experience again"
            )
        if not self._tuning:
            self._prune(strategy)
        self._tuning, self._unfinished = False, None
        strategy.train_epochs -= self.finetune_epochs

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Goes back to the whole network, if an evaluation was interrupted."""
        self._leave_view()

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Looks through the subnetwork of the task, if it was begun."""
        labels = set(getattr(strategy.experience, "task_labels", ()))
        if len(labels) == 1 and (label := labels.pop()) in self.tasks and self.subnetworks is not None:
            self._view = self.subnetworks.view(self.tasks[label])
            self._view.__enter__()

    def after_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Goes back to the whole network."""
        self._leave_view()

    def attach(self, model: Any) -> None:
        """Makes the subnetworks of a model, and loads pre-trained weights; the first training does it if nobody did.

        Raises:
            TypeError: if the model has no heads for tasks.
            FileNotFoundError, ValueError: if there are no pre-trained weights, or those of another network.
        """
        if not isinstance(model, MultiHeadModel):
            raise TypeError(
                f"the model must have a head for each task, got {type(model).__name__}; "
                'make it with clpack.strategies.with_head(model, "multi")'
            )
        network: Any = model.model
        options: Any = {"prune_fraction": self.prune_fraction, "bn": self.bn}
        self.subnetworks = MaskedSubnetworks(network, heads=[network.linear], **options)
        if self.pretrained_path is not None:
            load_weights(network, self.pretrained_path)

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns all but the path of pre-trained weights, which may be another one after a resume."""
        return {name: value for name, value in vars(self).items() if name != "pretrained_path"}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.__dict__.update(state)

    def _leave_view(self) -> None:
        if self._view is not None:
            self._view.__exit__(None, None, None)
            self._view = None

    def _prune(self, strategy: Any) -> None:
        assert self.subnetworks is not None
        current = strategy.experience.current_experience
        self.subnetworks.prune()
        strategy.optimizer.state.clear()
        self._epochs, self._tuning = 0, True
        masks = self.subnetworks.mask(self.subnetworks.task)
        used = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        name = f"Subnetwork_Used/train_phase/Exp{current:03d}"
        strategy.evaluator.publish_metric_value(MetricValue(self, name, used, strategy.clock.train_iterations))

    def __str__(self) -> str:
        return "Subnetwork"
