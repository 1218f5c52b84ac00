"""TAG in Avalanche: the plugin that tells the optimizer where tasks begin and end, and the ready-made strategy.

References:
    [1] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, PMLR 199, arXiv:2105.05155.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins.evaluation import EvaluationPlugin, default_evaluator
from torch import Tensor, nn

from clpack.optim import TAG as TAGOptimizer
from clpack.optim.tag import Base, BiasCorrection

from .templates import Template, check_not_empty

__all__ = ["TAG", "TAGPlugin"]


class TAGPlugin(SupervisedPlugin):
    r"""Runs a :class:`clpack.optim.TAG` optimizer inside any Avalanche strategy.

    It begins a task before each experience and ends it afterwards, gives back the history of tensors that Avalanche
    replaces when a head grows, and logs the task weights: after every epoch of task ``t`` the metrics
    ``TAG_Alpha/train_phase/TaskTTT/PastPPP`` hold :math:`\alpha(t, \tau)`, averaged over the steps of the epoch and
    then over the parameter tensors, for each other task :math:`\tau`. They reach every logger of the strategy.

    The task of an experience is its task label; on a stream without distinct task labels (class- or
    domain-incremental) every experience is a task of its own. A label that returns resumes its task. Tasks are
    numbered in the order in which they first appear. Experiences are told apart by their index, so one strategy must be
    trained on one stream only: the first experience of another would resume the first task.

    The plugin neither reads nor replaces the data, so its place in the list of plugins does not matter.

    Attributes:
        reports: for each finished task its weights in its last epoch, a float64 vector on the CPU with an entry for
            each task seen by then: ``t + 1`` of them for task ``t``, or more if it returned later. Entry ``t`` is the
            weight of the task itself: :math:`e^{-b}`, but 1 if no other task was finished.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reports: dict[int, Tensor] = {}
        self._tasks: dict[int, int] = {}  # task label or experience -> number of the task
        self._labels_tell: bool | None = None  # whether the task labels of the stream tell its experiences apart
        self._states: dict[str, dict[str, Any]] = {}  # parameter name -> its entry in optimizer.state

    def before_training(self, strategy: Any, *, reset_optimizer_state: bool = False, **kwargs: Any) -> None:
        """Checks the optimizer, and remembers its state, which Avalanche wipes before the first experience."""
        if not isinstance(strategy.optimizer, TAGOptimizer):
            raise TypeError(
                "TAGPlugin needs the optimizer of the strategy to be a clpack.optim.TAG, "
                f"got {type(strategy.optimizer).__name__}; pass optimizer=clpack.optim.TAG(model.parameters(), lr=...)"
            )
        if sum(isinstance(plugin, TAGPlugin) for plugin in strategy.plugins) > 1:
            raise ValueError("the strategy has more than one TAGPlugin; drop yours, clpack.strategies.TAG brings one")
        if reset_optimizer_state:
            raise ValueError("reset_optimizer_state=True would erase the history of the tasks that TAG is made of")
        progress = strategy.optimizer.progress
        begun = len(progress["steps"]) if progress["begun"] else 0
        if begun != len(self._tasks):
            raise ValueError(
                f"the optimizer has begun {begun} tasks, but this TAGPlugin {len(self._tasks)}, so it cannot be told "
                "which is which; go on with a plugin and an optimizer that were trained together, or make both anew"
            )
        self._remember(strategy)

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Refuses an experience without samples, from which no direction could be learned."""
        check_not_empty(strategy.experience)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begins the task, once the model has grown and the optimizer knows all parameters."""
        state = strategy.optimizer.state
        for name, param in strategy.model.named_parameters():
            if name in self._states and not state.get(param):
                strategy.optimizer.transfer_state(self._states[name], param)
        key = self._task_key(strategy.experience)
        strategy.optimizer.begin_task(self._tasks.setdefault(key, len(self._tasks)))

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Restarts the means of the task weights (and Adam's counter, if it counts epochs)."""
        strategy.optimizer.begin_epoch()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Logs the task weights of the epoch."""
        task = strategy.optimizer.progress["task"]
        for past, alpha in enumerate(strategy.optimizer.alpha_report().tolist()):
            if past != task:
                name = f"TAG_Alpha/train_phase/Task{task:03d}/Past{past:03d}"
                strategy.evaluator.publish_metric_value(MetricValue(self, name, alpha, strategy.clock.train_iterations))

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Ends the task."""
        self.reports[strategy.optimizer.progress["task"]] = strategy.optimizer.alpha_report()
        strategy.optimizer.end_task()
        self._remember(strategy)

    def task_weights(self) -> Tensor:
        r"""Returns the weights of the finished tasks as a matrix.

        Returns:
            float64, shape ``(n, n)`` for ``n`` finished tasks, on the CPU: entry ``[t, tau]`` is
            :math:`\alpha(t, \tau)` in the last epoch of task ``t``. NaN on the diagonal, and where task ``tau`` was
            not finished when ``t`` was trained.
        """
        weights = torch.full((len(self.reports), len(self.reports)), torch.nan, dtype=torch.float64)
        for task, report in self.reports.items():
            weights[task, : len(report)] = report
        return weights.fill_diagonal_(torch.nan)

    def _remember(self, strategy: Any) -> None:
        """Keeps what the optimizer knows of each parameter by its name.

        A parameter that was replaced since, by the evaluation of new classes, is not in the optimizer yet: what is
        known by its name stays.
        """
        state = strategy.optimizer.state
        known = {name: state[param] for name, param in strategy.model.named_parameters() if state.get(param)}
        self._states.update(known)

    def _task_key(self, experience: Any) -> int:
        """The task label, or the index of the experience where labels do not tell the experiences apart."""
        experience = getattr(experience, "origin_experience", experience)  # of the parts of an online stream
        if self._labels_tell is None:
            labels = [set(getattr(other, "task_labels", ())) for other in experience.origin_stream]
            self._labels_tell = len(set().union(*labels)) > 1
        if not self._labels_tell:
            return int(experience.current_experience)
        if len(set(experience.task_labels)) != 1:
            raise ValueError(
                f"TAG trains one task at a time, but experience {experience.current_experience} holds the task labels "
                f"{sorted(set(experience.task_labels))}; split it into one experience per task"
            )
        return int(experience.task_labels[0])

    def __str__(self) -> str:
        return "TAG_Alpha"


class TAG(Template):
    """Task-based accumulated gradients: fine-tuning with the task-aware optimizer.

    Composes with every plugin that changes the loss or the gradients (replay, EWC, A-GEM, LwF), which gives the
    hybrids of the paper::

        strategy = TAG(model=model, lr=0.0005, train_mb_size=10, plugins=[ReplayPlugin(mem_size=200)])

    See :class:`TAGPlugin` for what counts as a task.

    Args:
        model: the network.
        lr: learning rate, positive; required unless ``optimizer`` is given.
        base: ``"rmsprop"``, ``"adagrad"`` or ``"adam"``.
        b: reaction to the agreement between tasks, non-negative.
        betas: decay of the moments, ``None`` for those of the base.
        eps: added to the root of the denominator, positive.
        bias_correction: what the step counter of Adam counts, ``"task"`` or ``"epoch"``.
        optimizer: a :class:`clpack.optim.TAG` of your own (for several parameter groups) instead of the above.
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
        ValueError: if both or neither of ``lr`` and ``optimizer`` are given, or an option is out of range.
        TypeError: if ``optimizer`` is not a :class:`clpack.optim.TAG`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        lr: float | None = None,
        base: Base = "rmsprop",
        b: float = 5.0,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        bias_correction: BiasCorrection = "task",
        optimizer: TAGOptimizer | None = None,
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
        if lr is not None and optimizer is None:
            optimizer = TAGOptimizer(
                model.parameters(), lr, base=base, b=b, betas=betas, eps=eps, bias_correction=bias_correction
            )
        elif lr is not None or optimizer is None:
            raise ValueError(
                "give either lr (and base, b, betas, eps, bias_correction) or a ready optimizer, "
                f"got lr={lr} and optimizer={type(optimizer).__name__}"
            )
        elif not isinstance(optimizer, TAGOptimizer):
            raise TypeError(f"optimizer must be a clpack.optim.TAG, got {type(optimizer).__name__}; or give lr instead")
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            autocast=autocast,
            plugins=[TAGPlugin(), *(plugins or [])],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
            **base_kwargs,
        )
