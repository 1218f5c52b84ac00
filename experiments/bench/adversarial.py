"""Measures what training on attacked images costs, against as many plain training passes, in one run on one thread.

``python -m clpack.experiments.bench.adversarial`` trains :class:`clpack.models.ReducedResNet18` on random images of
3x32x32, clean and with :class:`clpack.strategies.AdversarialTrainingPlugin`, epoch by epoch in turn. An attack of ``s``
steps goes forward and backward ``s`` times more, so the ratio is that of the time to ``s + 1`` clean epochs.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

__all__ = ["main", "measure"]


def measure(num_images: int = 512, *, steps: int = 10, rounds: int = 5, batch_size: int = 64) -> dict[str, float]:
    """Returns ``clean`` and ``attacked``, the median seconds of processor time per epoch, and their ``ratio``.

    Args:
        num_images: images of an epoch.
        steps: of PGD.
        rounds: epochs of each kind; one more comes before, to warm up.
        batch_size: images of a mini-batch.
    """
    import torch
    from avalanche.benchmarks import nc_benchmark
    from avalanche.training.plugins import EvaluationPlugin

    from clpack.data import TensorImages
    from clpack.models import ReducedResNet18
    from clpack.strategies import AdversarialTrainingPlugin, InMemoryLoaderPlugin
    from clpack.strategies.templates import Template

    images = TensorImages(torch.rand(num_images, 3, 32, 32), torch.arange(num_images) % 10)
    experience = nc_benchmark(images, images, 1, task_labels=False, shuffle=False).train_stream[0]

    def strategy(plugins: list[Any]) -> Any:
        model = ReducedResNet18(10)
        return Template(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=batch_size,
            plugins=[InMemoryLoaderPlugin(), *plugins],
            evaluator=EvaluationPlugin(loggers=[]),
        )

    def seconds(trained: Any) -> float:
        start = time.process_time()
        trained.train(experience)
        return time.process_time() - start

    clean, attacked = strategy([]), strategy([AdversarialTrainingPlugin(steps=steps)])
    times = [(seconds(clean), seconds(attacked)) for _ in range(rounds + 1)][1:]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return {"clean": medians[0], "attacked": medians[1], "ratio": medians[1] / (medians[0] * (steps + 1))}


def main() -> None:
    """Prints the figures."""
    import torch
    from rich.console import Console

    torch.set_num_threads(1)
    steps = 10
    figures = measure(steps=steps)
    Console().print(
        f"an epoch of 512 images: clean {figures['clean']:.2f} s, attacked in {steps} steps "
        f"{figures['attacked']:.2f} s; that is {figures['ratio']:.2f} times {steps + 1} clean epochs"
    )


if __name__ == "__main__":
    main()
