"""TAG: an adaptive optimizer that knows which earlier tasks the current gradient agrees with.

Every parameter tensor keeps the second moments of all tasks and the directions (unit-norm first moments) of the
finished ones. A step in task ``t`` weighs the second moment of task ``tau`` by ``exp(-b * c)``, where ``c`` is the
cosine between the current first moment and the direction of ``tau``: tasks that pull the other way enlarge the
denominator and so protect their weights, tasks that agree let the step grow.

References:
    [1] P. Malviya, B. Ravindran, S. Chandar. TAG: Task-based Accumulated Gradients for Lifelong learning.
        CoLLAs 2022, PMLR 199, arXiv:2105.05155. Authors' code: github.com/pranshu28/TAG (MIT).

Deviations from the authors' code, each where it is broken or silent: a tensor whose first moment vanishes (an unused
head, a dead layer) has cosine 0 instead of NaN; a task may return; tensors may appear late or grow; Adam's step counter
runs over the task instead of restarting every epoch (``bias_correction="epoch"`` restarts it, as the original does).
"""

from __future__ import annotations

import copy
import math
import numbers
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._batches import Batch, Weights

__all__ = ["TAG"]

Base = Literal["rmsprop", "adagrad", "adam"]
BiasCorrection = Literal["task", "epoch"]

_DEFAULT_BETAS: dict[str, tuple[float, float]] = {
    "rmsprop": (0.9, 0.99),
    "adagrad": (0.9, 0.0),  # Adagrad sums its squares: the second coefficient has no meaning there
    "adam": (0.9, 0.999),
}


class TAG(Optimizer):
    r"""Task-based accumulated gradients [1].

    With :math:`M` and :math:`V` the moments of the current task, :math:`\hat M^{(\tau)}` the direction and
    :math:`V^{(\tau)}` the second moment of a finished task, one step on one tensor is

    .. math::
        \alpha_\tau = e^{-b \langle M / \|M\|,\ \hat M^{(\tau)} \rangle}, \quad \alpha_t = e^{-b}, \quad
        S = \alpha_t V + \sum_{\tau} \alpha_\tau V^{(\tau)}, \quad
        \theta \leftarrow \theta - \eta\, g / (\sqrt S + \epsilon)

    (with ``base="adam"`` the numerator is :math:`M`, and both moments are bias-corrected). As long as no other task
    is finished :math:`\alpha_t = 1`, so the first task is exactly the base optimizer. The weights are not normalized
    over tasks: they lie in :math:`[e^{-b}, e^b]`.

    Tell the optimizer where tasks begin and end; without any call everything is task 0::

        optimizer.begin_task(0)
        ...  # zero_grad, backward, step
        optimizer.end_task()

    The state is ``2 (n + 1) P`` numbers after ``n`` finished tasks with ``P`` parameters, allocated as tasks arrive.
    A step costs ``O(n P)`` and makes no host synchronization.

    Args:
        params: parameters or parameter groups. A group may set its own ``lr``, ``b``, ``betas`` and ``eps``.
        lr: learning rate, positive. There is no sensible default: [1] tunes it for every stream.
        base: the optimizer that TAG extends.
        b: how strongly the weights react to the cosine, non-negative. [1] uses 5, and 7 for the 5-dataset stream.
        betas: decay of the first and of the second moment, each in [0, 1). ``None`` means (0.9, 0.99) for RMSProp and
            (0.9, 0.999) for Adam; Adagrad uses the first only, 0.9.
        eps: added to the root of the denominator, positive.
        bias_correction: whether the step counter of Adam counts from the start of the task, or restarts at every
            :meth:`begin_epoch` as in the authors' code.

    Raises:
        ValueError: if an option is out of range or unknown.
        TypeError: if an option is not a number, or a parameter is not a real floating-point tensor of at least the
            range of float32: in float16 the squares of usual gradients vanish. Keep parameters in float32 and use
            autocast instead.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        base: Base = "rmsprop",
        b: float = 5.0,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        bias_correction: BiasCorrection = "task",
    ) -> None:
        if base not in _DEFAULT_BETAS:
            raise ValueError(f"base must be one of {', '.join(map(repr, _DEFAULT_BETAS))}, got {base!r}")
        if bias_correction not in ("task", "epoch"):
            raise ValueError(f"bias_correction must be 'task' or 'epoch', got {bias_correction!r}")
        self.progress: dict[str, Any] = {"task": 0, "begun": False, "open": True, "finished": [], "steps": {0: 0}}
        self._weights: dict[Tensor, Weights] = {}
        self._batches: dict[int, list[Batch]] = {}
        defaults = {
            "lr": lr,
            "base": base,
            "b": b,
            "betas": _DEFAULT_BETAS[base] if betas is None else betas,
            "eps": eps,
            "bias_correction": bias_correction,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, which take part from now on as if they had been unused in all finished tasks."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1], self.defaults)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    # ------------------------------------------------------------------------------------------- task boundaries

    def begin_task(self, task: int) -> None:
        """Starts task ``task``, and ends the one that is still open, if it is another.

        A task that was seen before resumes from its own moments and step counter; all *other* finished tasks then
        count as earlier ones.

        Args:
            task: global index of the task, counted from 0 in the order of first appearance.

        Raises:
            TypeError: if ``task`` is not an integer.
            ValueError: if it is negative, or skips an index.
        """
        if isinstance(task, bool) or not isinstance(task, int):
            raise TypeError(f"task must be an integer, got {task!r} of type {type(task).__name__}")
        steps = self.progress["steps"]
        following = len(steps) if self.progress["begun"] else 0
        if not 0 <= task <= following:
            raise ValueError(
                f"task must be between 0 and {following}, the next new task, got {task}: "
                "tasks are numbered without gaps in the order in which they first appear"
            )
        if self.progress["open"] and self.progress["task"] != task:
            self.end_task()
        self.progress.update(task=task, begun=True, open=True)
        steps.setdefault(task, 0)
        self._batches.clear()
        self._weights.clear()

    def end_task(self) -> None:
        """Freezes the moments of the current task. Does nothing if no task is open."""
        if not self.progress["open"]:
            return
        states = [state for state in self.state.values() if state and state["norms"][-1] is None]
        if states:
            current = [state["first"][-1] for state in states]
            in_double = torch._foreach_norm(current, 2.0, torch.float64)  # squares must neither vanish nor overflow
            norms = torch.stack([norm.cpu() for norm in in_double]).tolist()
            for state, moment, norm in zip(states, current, norms, strict=True):
                state["norms"][-1] = norm
                if norm > 0.0:
                    moment.div_(norm)
        task = self.progress["task"]
        self.progress["open"] = False
        if task not in self.progress["finished"]:
            self.progress["finished"].append(task)

    def begin_epoch(self) -> None:
        """Starts an epoch: the means of :meth:`alpha_report` restart, and so does Adam's counter if it counts epochs.

        Calling it is optional where neither matters.
        """
        self._collect_weights()
        for weights in self._weights.values():
            weights.restart()
        if self.defaults["bias_correction"] == "epoch":
            self.progress["steps"][self.progress["task"]] = 0

    # ----------------------------------------------------------------------------------------------------- step

    # torch declares two overloads of step(), with and without a closure; this one signature stands for both.
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient; the others keep their values and their moments.

        Args:
            closure: re-evaluates the model and returns the loss, as in every torch optimizer.

        Raises:
            RuntimeError: if the last task was ended and none was begun, or a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.progress["open"]:
            raise RuntimeError("no task is open: call begin_task(task) before the next step()")
        self.progress["begun"] = True
        self.progress["steps"][self.progress["task"]] += 1
        for index, group in enumerate(self.param_groups):
            for batch in self._batches_of(index, [param for param in group["params"] if param.grad is not None]):
                self._update(batch, group)
        return loss

    def _batches_of(self, index: int, params: list[Tensor]) -> list[Batch]:
        """Splits the tensors of group ``index`` that have gradients into batches that are updated together.

        The split is kept while the same tensors have gradients: most of the time of a step on small tensors would
        otherwise go into making views.
        """
        batches = self._batches.get(index, [])
        complete = sum(len(batch.params) for batch in batches) == len(params)
        if complete and all(batch.fits(params, self.state) for batch in batches):
            return batches
        self._collect_weights()
        split: dict[tuple[int, torch.device, torch.dtype], list[int]] = defaultdict(list)
        for position, param in enumerate(params):
            if cast(Tensor, param.grad).is_sparse:
                raise RuntimeError("TAG does not support sparse gradients; use layers with dense ones (sparse=False)")
            split[self._open_row(param), param.device, param.dtype].append(position)
        self._batches[index] = [Batch(params, positions, self.state) for positions in split.values()]
        return self._batches[index]

    def _open_row(self, param: Tensor) -> int:
        """Makes the last rows of the tensor's moments those of the current task; returns the number of rows."""
        state = self.state[param]
        if state and state["shape"] != param.shape:
            self.transfer_state(state, param)
            state = self.state[param]
        if not state:  # new, or emptied by the host: Avalanche puts an empty dictionary for new parameters
            empty = param.new_empty((0, param.numel()))
            state.update(first=empty, second=empty, tasks=[], norms=[], shape=tuple(param.shape))
        task, tasks, norms = self.progress["task"], state["tasks"], state["norms"]
        if task not in tasks:
            blank = param.new_zeros((1, param.numel()))
            state["first"] = torch.cat((state["first"], blank))
            state["second"] = torch.cat((state["second"], blank))
            state["tasks"], state["norms"] = [*tasks, task], [*norms, None]
        elif tasks[-1] != task:  # the task returns: its rows become the current ones
            row = tasks.index(task)
            order = [*(k for k in range(len(tasks)) if k != row), row]
            state["first"], state["second"] = state["first"][order], state["second"][order]
            state["tasks"], state["norms"] = [tasks[k] for k in order], [norms[k] for k in order]
        if state["norms"][-1] is not None:  # the row was frozen as a direction
            if state["norms"][-1] > 0.0:
                state["first"][-1].mul_(state["norms"][-1])
            state["norms"][-1] = None
        return len(state["tasks"])

    def _update(self, batch: Batch, group: dict[str, Any]) -> None:
        """One step on the tensors of a batch: equations (1) to (6) of the class."""
        beta1, beta2 = group["betas"]
        grads = [cast(Tensor, param.grad) for param in batch.params]
        flat_grads = [grad.reshape(-1) for grad in grads]
        torch._foreach_lerp_(batch.moments, flat_grads, 1.0 - beta1)
        if group["base"] == "adagrad":
            torch._foreach_addcmul_(batch.squares, flat_grads, flat_grads)
        else:
            torch._foreach_mul_(batch.squares, beta2)
            torch._foreach_addcmul_(batch.squares, flat_grads, flat_grads, 1.0 - beta2)

        alphas = batch.weigh(group["b"], self._own_weight(group))
        denominators = [torch.mv(second, alpha) for second, alpha in zip(batch.seconds, alphas, strict=True)]
        torch._foreach_sqrt_(denominators)
        lr, numerators = group["lr"], grads
        if group["base"] == "adam":
            count = self.progress["steps"][self.progress["task"]]
            lr = lr / (1.0 - beta1**count)
            torch._foreach_div_(denominators, math.sqrt(1.0 - beta2**count))
            numerators = [m.view(param.shape) for m, param in zip(batch.moments, batch.params, strict=True)]
        torch._foreach_add_(denominators, group["eps"])
        denominators = [d.view(param.shape) for d, param in zip(denominators, batch.params, strict=True)]
        torch._foreach_addcdiv_(batch.params, numerators, denominators, -lr)

    # ------------------------------------------------------------------------------------------- the task weights

    def _own_weight(self, group: dict[str, Any]) -> float:
        """The weight of the current task: that of a cosine of one, if there is any other task to weigh against."""
        others = any(task != self.progress["task"] for task in self.progress["finished"])
        return math.exp(-group["b"]) if others else 1.0

    def _collect_weights(self) -> None:
        """Moves the weights that the batches gathered into one record per tensor."""
        for batches in self._batches.values():
            for batch in batches:
                if batch.count:
                    for param, latest, total in zip(batch.params, batch.latest, batch.total, strict=True):
                        self._weights.setdefault(param, Weights()).add(latest, total, batch.count)
                    batch.forget()

    def alphas(self) -> list[Tensor]:
        r"""Returns the weights of the latest step of the current task.

        Returns:
            One vector per parameter, in the order of ``param_groups``, of shape ``(n,)`` with ``n`` the number of
            tasks seen so far (``t + 1`` in task ``t`` unless an earlier task has returned), in the dtype and on the
            device of the parameter. Entry ``tau`` is :math:`\alpha(t, \tau)`; it is 1 for a task in which the
            parameter had no gradient. A parameter without a gradient in the current task has the weights of a
            vanishing first moment: 1 for every earlier task.
        """
        self._collect_weights()
        return [self._all_weights(group, param, "latest") for group in self.param_groups for param in group["params"]]

    def alpha_report(self) -> Tensor:
        """Returns the weights averaged over the steps since :meth:`begin_epoch`, then over the parameter tensors.

        Returns:
            A float64 vector of shape ``(n,)`` on the CPU, as for :meth:`alphas`. Every tensor counts alike, whatever
            its size; tensors without a gradient since :meth:`begin_epoch` do not count. NaN if there is none.
        """
        self._collect_weights()
        updated = [
            self._all_weights(group, param, "mean")
            for group in self.param_groups
            for param in group["params"]
            if param in self._weights and self._weights[param].count
        ]
        if not updated:
            return torch.full((len(self.progress["steps"]),), math.nan, dtype=torch.float64)
        return torch.stack([weights.double().cpu() for weights in updated]).mean(0)

    def _all_weights(self, group: dict[str, Any], param: Tensor, kind: Literal["latest", "mean"]) -> Tensor:
        """Spreads the weights of the tasks in which ``param`` was trained over all tasks."""
        weights = param.new_ones(len(self.progress["steps"]))
        weights[self.progress["task"]] = self._own_weight(group)
        if param in self._weights:
            weights[self.state[param]["tasks"]] = getattr(self._weights[param], kind)
        return weights

    # ------------------------------------------------------------------------------------------------------ state

    def transfer_state(self, state: dict[str, Any], param: Tensor) -> None:
        """Gives ``param``, which replaces a smaller tensor, the state of that tensor.

        A parameter that grows itself (``param.data = larger``) needs no call. Old rows keep their moments; new rows
        start at zero, so that earlier tasks say nothing about them and the norms of their directions stay one.

        Args:
            state: the entry of ``optimizer.state`` that belonged to the old tensor.
            param: the new tensor; every dimension at least as large as before.

        Raises:
            ValueError: if a dimension shrank, or their number changed.
        """
        old_shape, shape = state["shape"], tuple(param.shape)
        if len(old_shape) != len(shape) or any(new < old for old, new in zip(old_shape, shape, strict=True)):
            raise ValueError(f"a tensor of shape {old_shape} can only be replaced by a larger one, got {shape}")
        inner = tuple(slice(size) for size in old_shape)
        grown = dict(state, shape=shape)
        for name in ("first", "second"):
            rows = param.new_zeros((len(state["tasks"]), *shape))
            rows[(slice(None), *inner)] = state[name].view(-1, *old_shape)
            grown[name] = rows.flatten(1) if shape else rows.view(-1, 1)
        self.state[param] = grown

    def state_dict(self) -> dict[str, Any]:
        """As for every torch optimizer, with the progress through the tasks under ``"progress"``."""
        self._collect_weights()
        params = [param for group in self.param_groups for param in group["params"]]
        weights = {k: vars(self._weights[param]) for k, param in enumerate(params) if param in self._weights}
        return {**super().state_dict(), "progress": copy.deepcopy({**self.progress, "weights": weights})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Raises:
            ValueError: if ``state_dict`` is that of another optimizer, or its groups do not fit.
        """
        if "progress" not in state_dict:
            raise ValueError(
                f"state_dict must come from a TAG optimizer and have 'progress', got one with {sorted(state_dict)}"
            )
        for name in ("base", "bias_correction"):
            saved = {group[name] for group in state_dict["param_groups"]}
            if saved != {self.defaults[name]}:
                raise ValueError(f"state_dict is that of {name}={saved.pop()!r}, this has {self.defaults[name]!r}")
        progress = copy.deepcopy(state_dict["progress"])
        super().load_state_dict({name: part for name, part in state_dict.items() if name != "progress"})
        params = [param for group in self.param_groups for param in group["params"]]
        self._batches = {}
        self._weights = {params[k]: Weights(**entry) for k, entry in progress.pop("weights").items()}
        self.progress = progress

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs beyond the groups and the state, which is all that torch copies."""
        self._collect_weights()
        return {**super().__getstate__(), "progress": self.progress, "_weights": self._weights, "_batches": {}}


def _check_group(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raises for parameters and options that TAG cannot work with."""
    for param in group["params"]:
        if not param.is_floating_point() or param.dtype == torch.float16:
            raise TypeError(
                f"TAG optimizes real floating-point parameters in bfloat16, float32 or float64, got {param.dtype}"
                + ("; keep them in float32 and use autocast" if param.dtype == torch.float16 else "")
            )
    for name in ("base", "bias_correction"):
        if group[name] != defaults[name]:
            raise ValueError(f"{name} must be the same in all groups, got {group[name]!r} and {defaults[name]!r}")
    betas = group["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"betas must be two numbers, got {betas!r}")
    numeric = {"lr": group["lr"], "b": group["b"], "eps": group["eps"], "betas[0]": betas[0], "betas[1]": betas[1]}
    for name, value in numeric.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise TypeError(f"{name} must be a finite number, got {value!r} of type {type(value).__name__}")
    if not group["lr"] > 0.0:
        raise ValueError(f"lr must be positive, got {group['lr']}")
    if not group["b"] >= 0.0:
        raise ValueError(f"b must be non-negative, got {group['b']}")
    if not group["eps"] > 0.0:
        raise ValueError(f"eps must be positive, got {group['eps']}")
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")
