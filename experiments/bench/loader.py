"""Measures the batch-gathering loader against Avalanche's own, in one run on one thread.

``python -m clpack.experiments.bench.loader`` prints microseconds per sample for 60000 float images of 1x28x28 in
memory, wrapped by ``nc_benchmark`` as every stream of the pack is. The two loaders take turns, so that other work on
the machine hits both. A *first* epoch includes setting our loader up; *steady* is the fastest of the later ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

__all__ = ["main", "measure"]


def measure(num_samples: int = 60_000, epochs: int = 3) -> list[dict[str, Any]]:
    """Returns one row per case: ``loader``, ``batch_size``, ``epoch``, ``avalanche_us``, ``ours_us`` and ``ratio``.

    Args:
        num_samples: images of the stream; half of them are the memory in the replay case.
        epochs: passes over the data for each loader, at least 2.
    """
    import torch
    from avalanche.benchmarks import nc_benchmark
    from avalanche.benchmarks.utils.data_loader import ReplayDataLoader, TaskBalancedDataLoader
    from torchvision.transforms import Normalize

    from clpack.data import TensorImages
    from clpack.strategies.loader import ExperienceLoader

    images = TensorImages(torch.rand(num_samples, 1, 28, 28), torch.arange(num_samples) % 10)

    def data(transform: Any = None) -> Any:
        stream = nc_benchmark(images, images, 1, task_labels=True, shuffle=False, train_transform=transform)
        return stream.train_stream[0].dataset

    def task_balanced(batch_size: int) -> Any:
        return TaskBalancedDataLoader(data(), batch_size=batch_size, shuffle=True)

    def normalized(batch_size: int) -> Any:
        return TaskBalancedDataLoader(data(Normalize(0.1307, 0.3081)), batch_size=batch_size, shuffle=True)

    def replay(batch_size: int) -> Any:
        everything, size = data(), batch_size // 2
        current, memory = (everything.subset(range(k, num_samples, 2)) for k in (0, 1))
        return ReplayDataLoader(current, memory, batch_size=size, batch_size_mem=size, shuffle=True)

    rows = []
    for name, make in {"task-balanced": task_balanced, "with Normalize": normalized, "half memory": replay}.items():
        for batch_size in (128, 10):
            avalanche, ours = make(batch_size), ExperienceLoader(make(batch_size))
            times = [(_seconds(avalanche), _seconds(ours)) for _ in range(epochs)]
            steady = [min(seconds) for seconds in zip(*times[1:], strict=True)]
            for epoch, measured in {"first": times[0], "steady": steady}.items():
                avalanche_us, ours_us = (1e6 * value / num_samples for value in measured)
                figures = {"avalanche_us": avalanche_us, "ours_us": ours_us, "ratio": avalanche_us / ours_us}
                rows.append({"loader": name, "batch_size": batch_size, "epoch": epoch, **figures})
    return rows


def _seconds(loader: Iterable[Any]) -> float:
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    import torch
    from rich.console import Console
    from rich.table import Table

    torch.set_num_threads(1)
    table = Table(title="microseconds per sample, 60000 images of 1x28x28, one thread")
    for heading in ("loader", "batch", "epoch", "Avalanche", "clpack", "ratio"):
        table.add_column(heading, justify="left" if heading in ("loader", "epoch") else "right")
    for row in measure():
        figures = f"{row['avalanche_us']:.2f}", f"{row['ours_us']:.2f}", f"{row['ratio']:.1f}x"
        table.add_row(row["loader"], str(row["batch_size"]), row["epoch"], *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
