"""EWC, A-GEM and experience replay as the experiments with TAG have them, where Avalanche's own differ.

Each of them makes the gradient only, so any optimizer can take the step: SGD gives the baselines of [1], RMSprop and
TAG its hybrids.

==========================  ========================================  ==========================================
method                      here, as in [1]                           Avalanche's own
==========================  ========================================  ==========================================
:class:`RunningEWCPlugin`   one anchor and one running Fisher matrix  an anchor and a Fisher matrix of all samples
                            from single batches; the gradient of the  for each experience; nothing is clipped
                            penalty is clipped
:class:`RingAGEMPlugin`     the last samples seen of each class       random samples of each experience
:class:`ReservoirERPlugin`  filled while training; the losses of new  filled after an experience; one mean loss
                            and stored samples are added              over new and stored samples
==========================  ========================================  ==========================================

References:
    [1] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, PMLR 199, arXiv:2105.05155. Authors' code: github.com/pranshu28/TAG (MIT).
    [2] J. Kirkpatrick et al. Overcoming catastrophic forgetting in neural networks. PNAS 2017, arXiv:1612.00796.
    [3] A. Chaudhry et al. Efficient Lifelong Learning with A-GEM. ICLR 2019, arXiv:1812.00420.
    [4] R. Aljundi et al. Online Continual Learning with Maximally Interfered Retrieval. NeurIPS 2019, arXiv:1908.04742.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from clpack.modes import evaluation_mode
from clpack.randomness import generator_for

from ._entries import check_number
from .data import dataset_field

__all__ = ["ReservoirERPlugin", "RingAGEMPlugin", "RunningEWCPlugin"]


class RunningEWCPlugin(SupervisedPlugin):
    r"""EWC with one anchor and one running Fisher matrix [1].

    The penalty is :math:`\lambda \sum F (\theta - \theta^*)^2`, where :math:`\theta^*` are the weights at the end of
    the last task. At the end of the t-th task, counted from 1, :math:`F \leftarrow (F + t G^2) / (t + 1)`, where
    :math:`G` is the gradient of the mean loss on one batch of samples of the task, drawn at random, in evaluation mode
    and with its evaluation transform. The gradient of the penalty is clipped and added to that of the loss; the loss
    that is logged is without it.

    Weights that a step does not reach, those of another task's head, are not moved. Rows that a head gains later are
    free. Every experience that is trained counts as a task, and so does each part of an online stream.

    Args:
        ewc_lambda: weight of the penalty.
        fisher_samples: samples in the batch that gives :math:`G`; all if the experience has fewer.
        max_norm: the norm that the gradient of the penalty is clipped to.
        seed: of the choice of the batch.

    Attributes:
        importance: :math:`F` by the name of the parameter.
        anchor: :math:`\theta^*` by the name of the parameter.
        tasks: number of tasks so far.

    Raises:
        ValueError: if an argument is out of range.
        TypeError: if an argument is not a number, or not an integer where one is needed.
    """

    def __init__(
        self, ewc_lambda: float = 1.0, *, fisher_samples: int = 200, max_norm: float = 100.0, seed: int = 0
    ) -> None:
        super().__init__()
        check_number("ewc_lambda", ewc_lambda, minimum=0)
        check_number("fisher_samples", fisher_samples, integer=True, minimum=1)
        check_number("max_norm", max_norm, interval="(0, inf)")
        check_number("seed", seed, integer=True)
        self.ewc_lambda = ewc_lambda
        self.fisher_samples = fisher_samples
        self.max_norm = max_norm
        self.seed = seed
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.tasks = 0

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the clipped gradient of the penalty."""
        gradients, penalties = [], []
        for name, parameter in strategy.model.named_parameters():
            if name in self.anchor and parameter.grad is not None:
                known = tuple(map(slice, self.anchor[name].shape))
                gradients.append(parameter.grad[known])
                penalties.append((parameter[known] - self.anchor[name]) * self.importance[name])
        if not penalties:
            return
        torch._foreach_mul_(penalties, 2 * self.ewc_lambda)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(penalties)))
        torch._foreach_mul_(penalties, (self.max_norm / (norm + 1e-6)).clamp(max=1.0))  # as clip_grad_norm_ does
        torch._foreach_add_(gradients, penalties)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Moves the anchor, and updates the importance of the weights."""
        self.tasks += 1
        named = {name: parameter for name, parameter in strategy.model.named_parameters() if parameter.requires_grad}
        with evaluation_mode(strategy.model):
            loss = _loss_on(strategy, self._batch(strategy))
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
            importance = gradient.square() * (self.tasks / (self.tasks + 1))
            if name in self.importance:
                old = self.importance[name]
                importance[tuple(map(slice, old.shape))] += old / (self.tasks + 1)
            self.importance[name] = importance
            self.anchor[name] = parameter.detach().clone()

    def _batch(self, strategy: Any) -> list[Tensor]:
        data, experience = strategy.experience.dataset.eval(), strategy.clock.train_exp_counter
        generator = generator_for(self.seed, "fisher", experience)
        rows = torch.randperm(len(data), generator=generator)[: self.fisher_samples].tolist()
        columns: list[Tensor] = data.collate_fn([data[row] for row in rows])
        return [column.to(strategy.device) for column in columns]


class RingAGEMPlugin(SupervisedPlugin):
    r"""A-GEM with a ring of samples for every class [1, 3].

    Of every class of every experience the samples seen last in training are kept. In each step as many samples as a
    training batch has are drawn without replacement from the memory of the other experiences (all if it has fewer). If
    the gradient :math:`g` of the loss disagrees with that of the loss on them, :math:`\langle g, g_{ref}\rangle < 0`,
    then :math:`g \leftarrow g - \langle g, g_{ref}\rangle / \langle g_{ref}, g_{ref}\rangle\, g_{ref}`, over all
    parameters together; weights without a gradient, those of another task's head, stay.

    As in the authors' program the network sees the current batch twice in each step, before and after the stored
    samples; this matters to the running statistics of normalization layers, and is left out for networks without them.

    The parts of an online stream share the rings of the experience that they are from. An experience that returns after
    another fills new ones. Experiences are told apart by their index, so one strategy must be trained on one stream
    only: the experiences of another would take the places of those of the first.

    Args:
        examples_per_class: samples stored of each class of each experience.
        seed: of the choice of stored samples.

    Attributes:
        memory: the stored samples of each experience by its index: the columns of a mini-batch.

    Raises:
        ValueError: if ``examples_per_class`` is not positive; in training, if the strategy has another plugin of this
            class.
        TypeError: if ``examples_per_class`` or ``seed`` is not an integer.
    """

    def __init__(self, examples_per_class: int = 1, *, seed: int = 0) -> None:
        super().__init__()
        check_number("examples_per_class", examples_per_class, integer=True, minimum=1)
        check_number("seed", seed, integer=True)
        self.examples_per_class = examples_per_class
        self.seed = seed
        self.memory: dict[int, list[Tensor]] = {}
        self._index = -1  # of the experience that the rings are of
        self._others: list[Tensor] = []  # the samples of the other experiences
        self._ring: list[Tensor] = []  # those of this one, and a row for what is not kept
        self._classes = torch.empty(0, dtype=torch.int64)
        self._seen = torch.empty(0, dtype=torch.int64)  # samples seen of each class
        self._generator = torch.Generator()
        self._reference: tuple[Tensor, ...] = ()
        self._sees_twice = False  # whether the network has running statistics

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Checks that there is no other plugin of this class."""
        if sum(isinstance(plugin, RingAGEMPlugin) for plugin in strategy.plugins) > 1:
            raise ValueError("the strategy has more than one RingAGEMPlugin; leave the others out")

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Empties the rings, unless they are of this experience, and joins the memory of the other experiences."""
        experience = getattr(strategy.experience, "origin_experience", strategy.experience)  # of an online stream
        index = experience.current_experience
        columns = [memory for other, memory in self.memory.items() if other != index]
        self._others = [torch.cat(column) for column in zip(*columns, strict=True)]
        if index != self._index:
            self._index, self._ring = index, []
            self._classes = dataset_field(experience.dataset, "targets").unique().to(strategy.device)
            self._seen = torch.zeros_like(self._classes)
        self._sees_twice = _has_running_statistics(strategy.model)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the random stream of the epoch."""
        self._generator = _epoch_generator(self.seed, strategy)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Stores the batch, and takes the reference gradient."""
        self._store(strategy.mbatch)
        if self._sees_twice:
            with torch.no_grad():
                strategy.forward()
        if self._others:
            chosen = _choose(len(self._others[0]), strategy.train_mb_size, self._generator)
            loss = _loss_on(strategy, [column[chosen] for column in self._others])
            parameters = [parameter for parameter in strategy.model.parameters() if parameter.requires_grad]
            self._reference = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Projects the gradient."""
        reference, self._reference = self._reference, ()
        if not reference:
            return
        parameters = (parameter for parameter in strategy.model.parameters() if parameter.requires_grad)
        pairs = [(p.grad, r) for p, r in zip(parameters, reference, strict=True) if p.grad is not None]
        product = torch.stack([(gradient * other).sum() for gradient, other in pairs]).sum()
        size = torch.stack([other.square().sum() for other in reference]).sum()
        factor = torch.where(product < 0, product / size, 0.0)
        for gradient, other in pairs:
            gradient -= factor * other

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Keeps what the rings hold."""
        places = torch.arange(self.examples_per_class, device=self._seen.device)
        filled = (places < self._seen.unsqueeze(1)).flatten().nonzero().flatten()
        if len(filled):
            self.memory[self._index] = [column[filled] for column in self._ring]
        self._others = []

    def _store(self, batch: list[Tensor]) -> None:
        targets, places = batch[1], self.examples_per_class
        last = len(self._classes) * places  # the row for what is not kept
        if not self._ring:
            self._ring = [column.new_zeros(last + 1, *column.shape[1:]) for column in batch]
        ring = torch.searchsorted(self._classes, targets).clamp(max=len(self._classes) - 1)
        same = targets == targets.unsqueeze(1)
        position = self._seen[ring] + same.tril(-1).sum(dim=1)
        own = self._classes[ring] == targets
        is_kept = own & (same.triu(1).sum(dim=1) < places)  # else later samples of the batch take its place at once
        rows = torch.where(is_kept, ring * places + position % places, last)
        for stored, column in zip(self._ring, batch, strict=True):
            stored.index_copy_(0, rows, column.to(stored.dtype))
        self._seen.index_add_(0, ring, own.long())


class ReservoirERPlugin(SupervisedPlugin):
    """Experience replay from one reservoir that is filled while training [1, 4].

    From the second experience on, each step draws as many stored samples as a training batch has, without replacement
    and from the whole memory, the current experience included (all if it has fewer). Their mean loss is *added* to
    that of the batch. Then the batch goes into the reservoir, in which, once it is full, a new sample takes the place
    of a stored one with a probability that leaves all samples seen so far about the same chance: that of the first
    sample of its batch. Each part of an online stream counts as an experience.

    Args:
        mem_size: samples stored.
        seed: of the choice of stored samples, and of what is stored.

    Attributes:
        memory: the stored samples: the columns of a mini-batch, with ``mem_size`` rows, of which the first ``seen`` are
            filled, and a last one that does not count. Empty before the first step.
        seen: samples seen so far.

    Raises:
        ValueError: if ``mem_size`` is not positive.
        TypeError: if ``mem_size`` or ``seed`` is not an integer.
    """

    def __init__(self, mem_size: int = 200, *, seed: int = 0) -> None:
        super().__init__()
        check_number("mem_size", mem_size, integer=True, minimum=1)
        check_number("seed", seed, integer=True)
        self.mem_size = mem_size
        self.seed = seed
        self.memory: list[Tensor] = []
        self.seen = 0
        self._generator = torch.Generator()

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the random stream of the epoch."""
        self._generator = _epoch_generator(self.seed, strategy)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the loss on stored samples, and stores the batch."""
        if strategy.clock.train_exp_counter and self.seen:
            chosen = _choose(min(self.seen, self.mem_size), strategy.train_mb_size, self._generator)
            strategy.loss = strategy.loss + _loss_on(strategy, [column[chosen] for column in self.memory])
        self._store(strategy.mbatch)

    def _store(self, batch: list[Tensor]) -> None:
        if not self.memory:
            self.memory = [column.new_zeros(self.mem_size + 1, *column.shape[1:]) for column in batch]
        count, device = len(batch[1]), batch[1].device
        fresh = min(max(self.mem_size - self.seen, 0), count)
        order = torch.arange(count, device=device)
        uniform = torch.rand(count, generator=self._generator, dtype=torch.float64, device=device)
        # As in the authors' program, samples of a batch have the same chance: that of its first one.
        drawn = (uniform * (self.seen + fresh)).long().clamp(max=self.mem_size)
        rows = torch.where(order < fresh, self.seen + order, drawn)
        replaced = (rows == rows.unsqueeze(1)).triu(1).any(dim=1)  # by a later sample of the batch
        rows = torch.where(replaced, self.mem_size, rows)
        for stored, column in zip(self.memory, batch, strict=True):
            stored.index_copy_(0, rows, column.to(stored.dtype))
        self.seen += count


def _epoch_generator(seed: int, strategy: Any) -> torch.Generator:
    period = (strategy.clock.train_exp_counter, strategy.clock.train_exp_epochs)
    return generator_for(seed, "stored samples", *period, device=strategy.device)


def _choose(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Returns ``wanted`` rows of ``count`` at random without replacement, or all."""
    noise = torch.rand(count, generator=generator, device=generator.device)
    return noise.topk(min(wanted, count)).indices


def _loss_on(strategy: Any, batch: list[Tensor]) -> Any:
    """Returns the loss of a strategy on another mini-batch than the current one, which stays in its place."""
    current_batch, current_output = strategy.mbatch, strategy.mb_output
    try:
        strategy.mbatch = batch
        strategy.mb_output = strategy.forward()
        return strategy.criterion()
    finally:
        strategy.mbatch, strategy.mb_output = current_batch, current_output


def _has_running_statistics(model: torch.nn.Module) -> bool:
    return any(getattr(layer, "running_mean", None) is not None for layer in model.modules())
