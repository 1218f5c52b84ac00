r"""Subnetworks for tasks, as masks of the weights of one network: the PackNet cycle as EpochLoss runs it.

References:
    [1] A. Mallya, S. Lazebnik. PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning. CVPR 2018,
        arXiv:1711.05769.
    [2] J. Andle et al. Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning
        (EpochLoss). Authors' code: github.com/JoshuaAndle/EpochLoss_CL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["MaskedSubnetworks"]

Normalization = Literal["shared", "per_task"]

_FREE = torch.iinfo(torch.int16).max  # the owner of weights that are left to later tasks


class MaskedSubnetworks(nn.Module):
    """A network whose convolutional and linear weights are handed out to one task after the other [1], as in [2].

    Every weight belongs to the task that trained it last, or is free. A task uses its own weights and all of the tasks
    before it, which stay as they are; from the second task on, the free ones start from the values that they had when
    this object was made. At the end the smallest of its own weights are pruned: set to zero, and free for the next::

        subnetworks = MaskedSubnetworks(model)
        for task in tasks:
            subnetworks.begin_task()
            ...  # train; call subnetworks.mask_gradients() between backward() and step()
            subnetworks.prune()
            ...  # fine-tune in the same way, with a new optimizer
        with subnetworks.view(0):
            ...  # evaluate the first task

    A masked gradient is zero, so use an optimizer that then leaves a weight where it is: without weight decay, and new
    for every task and after every pruning, since momentum would go on.

    Layers with weights also have biases sometimes: they train in the first task and are fixed from then on. Everything
    else, which is to say normalization, is trained by every task; that shifts what earlier tasks compute, unless it
    is kept ``"per_task"``. The heads are left alone: use one per task.

    Weights, owners, kept normalization and the progress are all in the ``state_dict``, which loads into an object made
    of the same network at the same settings.

    Args:
        model: the network, changed in place from now on. Load pre-trained weights after making this object: [2] starts
            free weights from the random network.
        prune_fraction: the share of its own weights that a task gives back, in (0, 1), in each layer. [2] uses 0.65.
        bn: ``"shared"`` as in [2]: one set of normalization parameters and statistics, trained by all tasks; or
            ``"per_task"``: those of each task are kept when the next begins, so that nothing of it is ever forgotten.
        heads: modules of ``model`` that are left out. Default: its ``linear``.

    Attributes:
        model: the network.
        task: the current task, 0-based; -1 before the first.

    Raises:
        ValueError: if an argument is out of range, or the model has no heads or no layer with weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        prune_fraction: float = 0.65,
        bn: Normalization = "shared",
        heads: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 < prune_fraction < 1.0:
            raise ValueError(f"prune_fraction must be in (0, 1), got {prune_fraction}")
        if bn not in get_args(Normalization):
            raise ValueError(f"bn must be 'shared' or 'per_task', got {bn!r}")
        if heads is None:
            if not isinstance(getattr(model, "linear", None), nn.Module):
                raise ValueError(f"{type(model).__name__} has no head called linear; name its output layers as heads")
            heads = [cast(nn.Module, model.linear)]
        head_modules = {module for head in heads for module in head.modules()}
        if not head_modules <= set(model.modules()):
            raise ValueError("heads must be modules of the model, got one that is not among model.modules()")
        self.model = model
        self.prune_fraction = prune_fraction
        self.bn = bn
        self.task = -1
        self._pruned = False
        self._viewing = False
        self._layers: list[str] = []
        self._others: list[str] = []
        for prefix, module in model.named_modules():
            if module in head_modules:
                continue
            if isinstance(module, (nn.Linear, _ConvNd)):
                self._layers.append(prefix)
                weight = module.weight.detach()
                self.register_buffer(_key("owner", prefix), torch.full_like(weight, _FREE, dtype=torch.int16))
                self.register_buffer(_key("initial", prefix), weight.clone())
            else:
                own = chain(module.named_parameters(prefix, recurse=False), module.named_buffers(prefix, recurse=False))
                self._others += [name for name, tensor in own]
        if not self._layers:
            raise ValueError(f"{type(model).__name__} has no convolutional or linear layer besides its heads")
        tensors = self._tensors()
        self._kept = [name for name in self._others if bn == "per_task" and tensors[name].is_floating_point()]
        for name in self._kept:
            self.register_buffer(_key("kept", name), tensors[name].detach().new_empty((0, *tensors[name].shape)))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the network, as it is."""
        return self.model(*args, **kwargs)

    # ---------------------------------------------------------------------------------------------- the cycle of a task

    def begin_task(self) -> None:
        """Starts the next task: gives it all free weights, and from the second task on sets these to initial values.

        Raises:
            RuntimeError: if the current task was not pruned, or nothing is left to train.
        """
        self._require(not self._viewing, "begin_task() within view(): leave it first")
        self._require(self.task < 0 or self._pruned, f"task {self.task} holds all weights: call prune() first")
        owners = [owner for _, owner in self._weights()]
        self._require(any((owner == _FREE).any() for owner in owners), "no free weights are left for another task")
        tensors = self._tensors()
        for name in self._kept if self.task >= 0 else ():
            key = _key("kept", name)
            self.register_buffer(key, torch.cat((self.get_buffer(key), tensors[name].detach()[None])))
        self.task += 1
        self._pruned = False
        for (layer, owner), name in zip(self._weights(), self._layers, strict=True):
            free = owner == _FREE
            if self.task > 0:
                with torch.no_grad():
                    layer.weight.copy_(torch.where(free, self.get_buffer(_key("initial", name)), layer.weight))
            owner.masked_fill_(free, self.task)

    def mask_gradients(self) -> None:
        """Sets the gradients of what the current task may not change to zero; to be called after the backward pass."""
        self._require(self.task >= 0, "there is no task yet: call begin_task() first")
        for layer, owner in self._weights():
            if layer.weight.grad is not None:
                layer.weight.grad.masked_fill_(owner != self.task, 0.0)
            if self.task > 0 and layer.bias is not None and layer.bias.grad is not None:
                layer.bias.grad.zero_()

    def prune(self) -> None:
        """Frees the smallest weights of the current task, ``prune_fraction`` of them in each layer.

        With ``n`` own weights, the threshold is the ``round(prune_fraction * n)``-th smallest magnitude, half to even;
        all that are not above it are set to zero.

        Raises:
            RuntimeError: if there is no task yet, or it was pruned already.
        """
        self._require(self.task >= 0, "there is no task yet: call begin_task() first")
        self._require(not self._viewing, "prune() within view(): leave it first")
        self._require(not self._pruned, f"task {self.task} was pruned already: fine-tune, or call begin_task()")
        for layer, owner in self._weights():
            own, magnitudes = owner == self.task, layer.weight.detach().abs()
            candidates = magnitudes[own]
            rank = round(self.prune_fraction * len(candidates))
            if rank:
                small = own & (magnitudes <= candidates.kthvalue(rank).values)
                with torch.no_grad():
                    layer.weight.masked_fill_(small, 0.0)
                owner.masked_fill_(small, _FREE)
        self._pruned = True

    # ------------------------------------------------------------------------------------------------------ evaluation

    def mask(self, task: int) -> dict[str, Tensor]:
        """Returns which weights a task uses: by name in :attr:`model`, boolean tensors of their shapes.

        Raises:
            ValueError: if the task was not begun.
        """
        self._require_begun(task)
        return {f"{name}.weight": owner <= task for name, (_, owner) in zip(self._layers, self._weights(), strict=True)}

    @contextlib.contextmanager
    def view(self, task: int) -> Iterator[nn.Module]:
        """Makes the network that of a task for as long as the context lasts; yields :attr:`model`.

        Weights of later tasks are zero, and with ``bn="per_task"`` normalization is that of the task. Afterwards all
        is as before, bit for bit: whatever happens inside, in the heads excepted, happens to copies.

        Raises:
            ValueError: if the task was not begun.
            RuntimeError: within another view.
        """
        self._require_begun(task)
        self._require(not self._viewing, "view() within another view: leave that first")
        masks, tensors = self.mask(task), self._tensors()
        originals = [(tensors[name], tensors[name].data) for name in (*masks, *self._others)]
        kept = self._kept if task < self.task else ()
        self._viewing = True
        try:
            for name in masks:
                tensors[name].data = tensors[name].data.masked_fill(~masks[name], 0.0)
            for name in self._others:
                value = self.get_buffer(_key("kept", name))[task] if name in kept else tensors[name].data
                tensors[name].data = value.clone()
            yield self.model
        finally:
            for tensor, original in originals:
                tensor.data = original
            self._viewing = False

    # ----------------------------------------------------------------------------------------------------------- state

    def get_extra_state(self) -> Tensor:
        """Returns the progress: the current task, and whether it was pruned."""
        return torch.tensor([self.task, int(self._pruned)])

    def set_extra_state(self, state: Tensor) -> None:
        """Continues from the progress that :meth:`get_extra_state` returned."""
        self.task, self._pruned = int(state[0]), bool(state[1])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in (_key("kept", name) for name in self._kept):  # they grow with the tasks
            if prefix + key in state_dict:
                size = len(state_dict[prefix + key])
                self.register_buffer(key, self.get_buffer(key).new_empty((size, *self.get_buffer(key).shape[1:])))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    def _weights(self) -> Iterator[tuple[nn.Linear, Tensor]]:
        """The masked layers, and which task owns each of their weights."""
        for name in self._layers:
            yield cast(nn.Linear, self.model.get_submodule(name)), self.get_buffer(_key("owner", name))

    def _require_begun(self, task: int) -> None:
        if not 0 <= task <= self.task:
            begun = f"tasks 0 to {self.task} were" if self.task >= 0 else "no task was"
            raise ValueError(f"task must be one that was begun, got {task}; {begun}")

    @staticmethod
    def _require(condition: Any, message: str) -> None:
        if not condition:
            raise RuntimeError(message)


def _key(kind: str, name: str) -> str:
    """The name of a buffer, which must not contain dots."""
    return f"{kind}_{name.replace('.', '-')}"
