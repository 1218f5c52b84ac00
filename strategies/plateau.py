"""The learning-rate and stopping rule of EpochLoss, on a validation stream.

References:
    [1] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import MetricValue
from avalanche.models import avalanche_forward
from torch import Tensor
from torch.utils.data import DataLoader

from clpack.modes import evaluation_mode
from clpack.optim import Plateau
from clpack.randomness import generator_for

from .adversarial import AdversarialTrainingPlugin, Attack
from .loader import ExperienceLoader
from .pruning import PruningPlugin
from .subnetworks import SubnetworkPlugin

__all__ = ["PlateauPlugin"]


class PlateauPlugin(SupervisedPlugin):
    """Lowers the learning rate when the validation accuracy no longer rises, stops, and keeps the best weights.

    See :class:`clpack.optim.Plateau` for the rule. It begins anew in each phase of an experience: scoring
    (:class:`~clpack.strategies.PruningPlugin`), training, and fine-tuning
    (:class:`~clpack.strategies.SubnetworkPlugin`); put it after these plugins. At the end of a phase the weights of the
    best evaluation are restored, except that scoring without a reset goes on from its last epoch. The learning rate of
    every phase starts from that of the optimizer at the first training.

    The accuracy is that on the experience of the validation stream with the same index; in the training of an
    :class:`~clpack.strategies.AdversarialTrainingPlugin` it is that on images attacked in the same way. It is logged as
    ``Validation_Accuracy/PHASE/ExpEEE``, the learning rate as ``Learning_Rate/PHASE/ExpEEE``.

    Args:
        stream_name: the validation stream of the benchmark.
        factor: the learning rate is multiplied by it, in (0, 1).
        min_lr: training ends when the learning rate would fall below it.
        patience: epochs without a better accuracy before the learning rate falls.
        interval: epochs between two evaluations.
        seed: of what the attack draws.

    Raises:
        ValueError: if a number is out of range; in training, if the benchmark has no such stream, or a plugin that
            makes phases comes after this one.
    """

    def __init__(
        self,
        *,
        stream_name: str = "valid",
        factor: float = 0.1,
        min_lr: float = 1e-4,
        patience: int = 20,
        interval: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options: Any = {"factor": factor, "min_lr": min_lr, "patience": patience, "interval": interval}
        Plateau(max(1.0, min_lr), **self.options)  # complains at once
        self.stream_name = stream_name
        self.seed = seed
        self._phase: tuple[int, str] = (-1, "")
        self._epoch = 0
        self._first_rates: list[float] = []
        self._state: dict[str, Any] = {}
        self._best: dict[str, Tensor] | None = None

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Notes the first learning rate, and checks the order of the plugins."""
        plugins = list(strategy.plugins)
        for plugin in plugins[plugins.index(self) :]:
            if isinstance(plugin, PruningPlugin | SubnetworkPlugin):
                raise ValueError(f"{type(plugin).__name__} must come before PlateauPlugin; put PlateauPlugin after it")
        if not self._first_rates:
            self._first_rates = [group["lr"] for group in strategy.optimizer.param_groups]

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Checks that there is something to validate on."""
        self._validation_data(strategy)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Begins anew in a new phase."""
        phase = (strategy.clock.train_exp_counter, self._phase_of(strategy)[0])
        if phase != self._phase:
            self._phase, self._epoch, self._best = phase, 0, None
            self._state = Plateau(self._first_rates[0], **self.options).state_dict()
        self._set_rates(strategy)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Evaluates when it is time, and ends the phase with the best weights."""
        name, length = self._phase_of(strategy)
        plateau = Plateau(self._first_rates[0], **self.options)
        plateau.load_state_dict(self._state)
        self._epoch += 1
        if plateau.is_due(self._epoch, length):
            accuracy = self._accuracy(strategy)
            self._publish(strategy, f"Validation_Accuracy/{name}", accuracy)
            self._publish(strategy, f"Learning_Rate/{name}", plateau.lr)
            if plateau.update(accuracy) == "store":
                self._best = {key: value.clone() for key, value in strategy.model.state_dict().items()}
            self._state = plateau.state_dict()
            self._set_rates(strategy)
        over = self._epoch == length or plateau.finished
        if over and self._best is not None and not self._goes_on(strategy):
            strategy.model.load_state_dict(self._best)
        if plateau.finished and self._epoch < length:
            strategy.stop_training()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Puts the first learning rate back."""
        self._best = None
        for group, rate in zip(strategy.optimizer.param_groups, self._first_rates, strict=False):
            group["lr"] = rate

    def _phase_of(self, strategy: Any) -> tuple[str, int]:
        """Returns the name of the present phase, and how many epochs it has at most."""
        total = strategy.train_epochs
        for plugin in strategy.plugins:
            if isinstance(plugin, SubnetworkPlugin):
                if plugin.is_finetuning:
                    return "finetune_phase", plugin.finetune_epochs
                total -= plugin.finetune_epochs
        for plugin in strategy.plugins:
            if isinstance(plugin, PruningPlugin):
                if plugin.is_scoring:
                    return "scoring_phase", plugin.scoring_epochs
                total -= 0 if plugin.reset else plugin.scoring_epochs
        return "train_phase", total

    def _goes_on(self, strategy: Any) -> bool:
        """Whether training goes on from where scoring ends, as it does without a reset."""
        plugins = [plugin for plugin in strategy.plugins if isinstance(plugin, PruningPlugin)]
        return any(plugin.is_scoring and not plugin.reset for plugin in plugins)

    def _set_rates(self, strategy: Any) -> None:
        for group, rate in zip(strategy.optimizer.param_groups, self._first_rates, strict=False):
            group["lr"] = self._state["lr"] * (rate / self._first_rates[0])

    def _validation_data(self, strategy: Any) -> Any:
        streams = getattr(strategy.experience.origin_stream.benchmark, "streams", {})
        if self.stream_name not in streams:
            raise ValueError(
                f"the benchmark has no stream {self.stream_name!r} to validate on, only {sorted(streams)}; name one of "
                "them, or use a benchmark with a validation stream"
            )
        return streams[self.stream_name][strategy.experience.current_experience].dataset.eval()

    @torch.no_grad()
    def _accuracy(self, strategy: Any) -> float:
        """Returns the share of the validation images that are classified correctly, in the order of the stream."""
        attack, model = self._attack(strategy), strategy.model
        data = self._validation_data(strategy)
        experience = strategy.experience.current_experience
        generator = generator_for(self.seed, "validation attack", experience, device=strategy.device)
        correct = torch.zeros((), dtype=torch.int64, device=strategy.device)
        batch_size = strategy.eval_mb_size or strategy.train_mb_size
        training_batch = strategy.mbatch
        try:
            with evaluation_mode(model), torch.random.fork_rng(devices=[]):  # a loader draws a seed
                loader = DataLoader(data, batch_size=batch_size, collate_fn=data.collate_fn)
                for batch in ExperienceLoader(loader):
                    strategy.mbatch = [column.to(strategy.device) for column in batch]
                    images = strategy.mb_x if attack is None else attack.of_batch(strategy, generator)
                    outputs = avalanche_forward(model, images, strategy.mb_task_id)
                    correct += (outputs.argmax(dim=1) == strategy.mb_y).sum()
        finally:
            strategy.mbatch = training_batch
        return correct.item() / len(data)

    def _attack(self, strategy: Any) -> Attack | None:
        """Returns the attack of the present phase, if there is one."""
        if self._phase_of(strategy)[0] == "scoring_phase":
            return None
        attacks = [plugin.attack for plugin in strategy.plugins if isinstance(plugin, AdversarialTrainingPlugin)]
        return attacks[0] if attacks else None

    def _publish(self, strategy: Any, name: str, value: float) -> None:
        full_name = f"{name}/Exp{strategy.experience.current_experience:03d}"
        strategy.evaluator.publish_metric_value(MetricValue(self, full_name, value, strategy.clock.train_iterations))

    def __str__(self) -> str:
        return "Plateau"
