"""What TAG keeps while it steps: tensors that are updated together, and the task weights of each."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["Batch", "Weights"]

# Below this many roots of the smallest normal number (1e-14 in float32) the squares of a moment may underflow, and its
# cosines fade to those of a vanishing one. Such a tensor does not move anyway: its gradients are far below eps.
_VANISHING = 1e5


class Weights:
    """The task weights of one tensor: those of its latest step, and their sum over the steps of the epoch."""

    def __init__(self, latest: Tensor | None = None, total: Tensor | None = None, count: int = 0) -> None:
        self.latest, self.total, self.count = latest, total, count

    def add(self, latest: Tensor, total: Tensor, count: int) -> None:
        self.latest = latest
        self.total = total if self.total is None else self.total + total
        self.count += count

    def restart(self) -> None:
        self.total, self.count = None, 0

    @property
    def mean(self) -> Tensor:
        mean: Tensor = cast(Tensor, self.total) / self.count
        return mean


class Batch:
    """Tensors with equally many rows, on one device and of one dtype, with views of their state.

    Args:
        params: all tensors of the parameter group that have gradients.
        positions: which of them belong to this batch.
        state: ``optimizer.state``, in which their last rows are those of the current task.
    """

    def __init__(self, params: list[Tensor], positions: list[int], state: dict[Tensor, dict[str, Any]]) -> None:
        self.positions = positions
        self.params = [params[position] for position in positions]
        self.first = [state[param]["first"] for param in self.params]
        self.second = [state[param]["second"] for param in self.params]
        self.moments = [first[-1] for first in self.first]
        self.squares = [second[-1] for second in self.second]
        self.seconds = [second.t() for second in self.second]
        self.latest = self.total = torch.empty(0)
        self.count = 0

    def fits(self, params: list[Tensor], state: dict[Tensor, dict[str, Any]]) -> bool:
        """Whether the batch is still at its place among ``params``, and its views are of what ``state`` holds."""
        return all(
            params[position] is param
            and entry.get("first") is first
            and entry.get("second") is second
            and entry["shape"] == param.shape
            for position, param, entry, first, second in zip(
                self.positions, self.params, map(state.__getitem__, self.params), self.first, self.second, strict=True
            )
        )

    def weigh(self, b: float, own_weight: float) -> Tensor:
        """Equations (3) and (4): the weights of the tasks, shape ``(tensors, rows)``.

        The last row of ``first`` is the current moment itself, so one product per tensor gives the numerators of the
        cosines and the squared norm.
        """
        alphas: Tensor = self.moments[0].new_empty((len(self.params), len(self.first[0])))
        if alphas.shape[1] > 1:
            for first, moment, row in zip(self.first, self.moments, alphas, strict=True):
                torch.mv(first, moment, out=row)
            norms = alphas[:, -1:].sqrt().clamp_min_(_VANISHING * torch.finfo(alphas.dtype).tiny ** 0.5)
            alphas.div_(norms).clamp_(-1.0, 1.0).mul_(-b).exp_()
        alphas[:, -1] = own_weight
        self.latest = alphas
        self.total = alphas.clone() if self.count == 0 else self.total.add_(alphas)
        self.count += 1
        return alphas

    def forget(self) -> None:
        """Starts to gather weights anew."""
        self.latest = self.total = torch.empty(0)
        self.count = 0
