"""Samples held out of the training data: what a strategy is judged by while it trains, and unlabeled images."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import MetricValue
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from clpack.modes import evaluation_mode
from clpack.randomness import generator_for

from ._inversion import evaluation_batches
from .data import dataset_field

__all__ = ["HeldOutPlugin"]


class HeldOutPlugin(SupervisedPlugin):
    """What :class:`~clpack.strategies.CCSI` does with samples that it does not train on.

    It holds a part of the training data out, impressions included, lowers the learning rate when the accuracy after an
    epoch no longer rises, puts the weights of the best epoch back, and serves unlabeled images. Nothing of the data is
    part of a checkpoint.

    Args:
        fraction: the share of each class that is held out, in (0, 1); one sample at least, if there are two.
        selection: where the accuracy is taken: ``"validation"``, the samples held out; ``"none"``; or the name of a
            stream of the benchmark, of which all samples of the classes seen so far count.
        unlabeled: where unlabeled images come from; the same names.
        plateau_mode: ``"max"``, or ``"min"`` as in the code of CCSI, where the learning rate falls as long as the
            accuracy does not.
        seed: of the choice of samples and the order of unlabeled images.
    """

    def __init__(self, *, fraction: float, selection: str, unlabeled: str, plateau_mode: Any, seed: int) -> None:
        super().__init__()
        self.fraction = fraction
        self.selection = selection
        self.unlabeled = unlabeled
        self.plateau_mode = plateau_mode
        self.seed = seed
        self._data: dict[str, Any] = {}
        self._first_rates: list[float] = []
        self._scheduler: ReduceLROnPlateau | None = None
        self._best: dict[str, Tensor] | None = None
        self._best_accuracy = 0.0

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Notes the first learning rate."""
        if not self._first_rates:
            self._first_rates = [group["lr"] for group in strategy.optimizer.param_groups]

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Checks that there are the streams that were named."""
        streams = getattr(strategy.experience.origin_stream.benchmark, "streams", {})
        for option, name in (("selection", self.selection), ("idc_target", self.unlabeled)):
            if name not in ("validation", "none", *streams):
                raise ValueError(
                    f"{option} must be 'validation', 'none' or a stream of the benchmark, {sorted(streams)}, "
                    f"got {name!r}"
                )

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Holds samples out, if any are needed."""
        self._data = {}
        if "validation" not in (self.selection, self.unlabeled):
            return
        data, current = strategy.adapted_dataset, strategy.experience.current_experience
        targets = dataset_field(data, "targets").unique(return_inverse=True)[1]
        order = torch.randperm(len(targets), generator=generator_for(self.seed, "held-out samples", current))
        by_class = order[targets[order].argsort(stable=True)]
        counts = targets.bincount()
        rank = torch.arange(len(targets)) - (counts.cumsum(0) - counts)[targets[by_class]]
        held_out = (self.fraction * counts).long().clamp(min=1).minimum(counts - 1)
        is_held_out = torch.zeros(len(targets), dtype=torch.bool)
        is_held_out[by_class] = rank < held_out[targets[by_class]]
        self._data["validation"] = data.subset(is_held_out.nonzero().flatten().tolist()).eval()
        strategy.adapted_dataset = data.subset((~is_held_out).nonzero().flatten().tolist())

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begins a schedule, and looks up the streams that were named."""
        self._best, self._best_accuracy = None, 0.0
        if self.selection != "none":
            self._scheduler = ReduceLROnPlateau(
                strategy.optimizer, self.plateau_mode, factor=0.3, patience=5, threshold=1e-4
            )
        for name in {self.selection, self.unlabeled} - {"validation", "none"}:
            self._data[name] = _seen_samples(strategy, name)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Evaluates, keeps the weights if they are the best so far, and goes on with the schedule."""
        if self._scheduler is None:
            return
        accuracy = self._accuracy(strategy)
        self._publish(strategy, "Validation_Accuracy", accuracy)
        self._publish(strategy, "Learning_Rate", strategy.optimizer.param_groups[0]["lr"])
        if accuracy >= self._best_accuracy:
            self._best_accuracy = accuracy
            self._best = {name: value.clone() for name, value in strategy.model.state_dict().items()}
        self._scheduler.step(accuracy)

    def finish(self, strategy: Any) -> None:
        """Puts the weights of the best epoch and the first learning rate back, before others look at the model."""
        if self._best is not None:
            strategy.model.load_state_dict(self._best)
        self._data, self._best, self._scheduler = {}, None, None
        for group, rate in zip(strategy.optimizer.param_groups, self._first_rates, strict=False):
            group["lr"] = rate

    def unlabeled_images(self, strategy: Any) -> Tensor:
        """Returns as many images as a mini-batch has, the next ones in a random order that begins with each epoch."""
        data, clock = self._data[self.unlabeled], strategy.clock
        first = clock.train_epoch_iterations * strategy.train_mb_size
        passes = range(first // len(data), (first + strategy.train_mb_size - 1) // len(data) + 1)
        names = ("unlabeled images", clock.train_exp_counter, clock.train_exp_epochs)
        orders = [torch.randperm(len(data), generator=generator_for(self.seed, *names, number)) for number in passes]
        start = first - passes[0] * len(data)
        rows = torch.cat(orders)[start : start + strategy.train_mb_size].tolist()
        images: Tensor = data.collate_fn([data[row] for row in rows])[0]
        return images.to(strategy.device)

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns how far the schedule is; the samples held out are chosen again."""
        scheduler = None if self._scheduler is None else self._scheduler.state_dict()
        return {
            "scheduler": scheduler,
            "best": self._best,
            "best_accuracy": self._best_accuracy,
            "first_rates": self._first_rates,
        }

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self._best, self._best_accuracy = state["best"], state["best_accuracy"]
        self._first_rates = state["first_rates"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])

    @torch.no_grad()
    def _accuracy(self, strategy: Any) -> float:
        data = self._data[self.selection]
        correct = torch.zeros((), dtype=torch.int64, device=strategy.device)
        with evaluation_mode(strategy.model):
            for images, targets in evaluation_batches(data, strategy.eval_mb_size):
                outputs = strategy.model(images.to(strategy.device))
                correct += (outputs.argmax(dim=1) == targets.to(strategy.device)).sum()
        return correct.item() / len(data)

    def _publish(self, strategy: Any, name: str, value: float) -> None:
        full_name = f"{name}/train_phase/Exp{strategy.experience.current_experience:03d}"
        strategy.evaluator.publish_metric_value(MetricValue(self, full_name, value, strategy.clock.train_iterations))

    def __str__(self) -> str:
        return "HeldOut"


def _seen_samples(strategy: Any, stream: str) -> Any:
    """Returns the samples of a stream that are of classes seen so far, as evaluation sees them."""
    seen = torch.tensor(strategy.model.linear.classes)
    parts = []
    for experience in strategy.experience.origin_stream.benchmark.streams[stream]:
        data = experience.dataset.eval()
        rows = torch.isin(dataset_field(data, "targets"), seen).nonzero().flatten()
        if len(rows):
            parts.append(data.subset(rows.tolist()))
    if not parts:
        raise ValueError(f"stream {stream!r} has no samples of the classes seen so far, {seen.tolist()}")
    first, *rest = parts
    for part in rest:
        first = first.concat(part)
    return first
