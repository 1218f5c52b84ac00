"""What a TAG step costs: against torch's RMSprop and against a plain transcription of the authors' step, in one run.

``python -m clpack.experiments.bench.tag`` prints the medians and their ratios, for the reduced ResNet-18 with 20 stored
tasks, on one CPU thread or on a GPU (``--device cuda``).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from clpack.models import ReducedResNet18
from clpack.optim import TAG

__all__ = ["main"]


class AuthorsRMSProp:
    """TAG-RMSProp in the order of the authors' program: all tasks stacked anew and normalized again at each step."""

    def __init__(self, params: list[nn.Parameter], lr: float, b: float) -> None:
        self.params, self.lr, self.b = params, lr, b
        self.first = [[torch.zeros_like(param)] for param in params]
        self.second = [[torch.zeros_like(param)] for param in params]

    def begin_task(self) -> None:
        for param, first, second in zip(self.params, self.first, self.second, strict=True):
            first.append(torch.zeros_like(param))
            second.append(torch.zeros_like(param))

    @torch.no_grad()
    def step(self) -> None:
        for param, first, second in zip(self.params, self.first, self.second, strict=True):
            gradient = cast(Tensor, param.grad)
            first[-1].mul_(0.9).add_(gradient, alpha=0.1)
            second[-1].mul_(0.99).addcmul_(gradient, gradient, value=0.01)
            current = first[-1].flatten() / first[-1].norm()
            alphas = []
            for moment in first[:-1]:
                direction = moment.flatten() / moment.norm()
                alphas.append(torch.exp(-self.b * torch.dot(current, direction).cpu()).item())
            stacked = second[0].unsqueeze(0)
            for moment in second[1:]:
                stacked = torch.cat((stacked, moment.unsqueeze(0)))
            weights = torch.tensor([*alphas, torch.exp(torch.tensor(-self.b)).item()], device=param.device)
            total = (weights.view(-1, *[1] * param.dim()) * stacked).sum(0)
            param.addcdiv_(gradient, total.sqrt() + 1e-8, value=-self.lr)


def main(*, device: str = "cpu", tasks: int = 20, repeats: int = 100) -> None:
    """Measures and prints.

    Args:
        device: where the network lies.
        tasks: number of stored tasks.
        repeats: timed steps of each optimizer, a multiple of 10; the authors' step gets a tenth.
    """
    from rich.console import Console
    from rich.table import Table

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rmsprop, tag, authors = (ReducedResNet18().to(device) for _ in range(3))
    baseline = torch.optim.RMSprop(rmsprop.parameters(), lr=1e-4)
    ours = TAG(tag.parameters(), lr=1e-4)
    plain = AuthorsRMSProp(list(authors.parameters()), lr=1e-4, b=5.0)
    for model in (rmsprop, tag, authors):
        for param in model.parameters():
            param.grad = torch.randn_like(param)
    for task in range(tasks + 1):
        ours.begin_task(task)
        ours.step()
        if task:
            plain.begin_task()
        for first in plain.first:
            first[-1].normal_()
    seconds: dict[str, list[float]] = {"RMSprop": [], "TAG": [], "plain": []}
    for _ in range(repeats // 10):  # in turns, so that a slow moment hits all, but each with its own state in the cache
        for name, step, times in (("RMSprop", baseline.step, 10), ("TAG", ours.step, 10), ("plain", plain.step, 1)):
            seconds[name] += [_seconds(step, device) for _ in range(times)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}

    count = sum(param.numel() for param in tag.parameters())
    table = Table(title=f"One step, ReducedResNet18 ({count} parameters), {tasks} stored tasks, {device}, 1 thread")
    for column in ("optimizer", "ms per step", "times RMSprop"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for name, label in (
        ("RMSprop", "torch RMSprop"),
        ("TAG", "clpack TAG"),
        ("plain", "TAG as the authors compute it"),
    ):
        table.add_row(label, f"{1e3 * medians[name]:.2f}", f"{medians[name] / medians['RMSprop']:.1f}")
    Console().print(table)
    stored = sum(state[key].numel() for state in ours.state.values() for key in ("first", "second"))
    print(f"state: {stored} numbers = {stored / count:.0f} per parameter (2 (t + 1) with t = {tasks})")


def _seconds(step: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
