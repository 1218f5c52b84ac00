"""Measures recording and scoring against the plainest ways to do it, in one run on one thread.

``python -m clpack.experiments.bench.pruning`` prints what each takes beside what it is compared with, and the ratio.
Times are those of the processor. Compared are

* MLI of a trace of 60,000 samples and 200 presentations, against reading it once (the sum of its losses);
* recording an epoch of 60,000 samples at batches of 64, against a loop over samples as in the code of [1];
* an epoch of the MNIST network with ``TracePlugin``, ids in the loader included, against one without it. Both begin
  with setting up the experience, both gather whole batches, and they take turns in changing order;
* the memory that the scores of a trace of 1.28 million samples and 90 presentations take, beside the trace itself.

References:
    [1] M. Toneva et al. An Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019,
        arXiv:1812.05159. Authors' code: github.com/mtoneva/example_forgetting (MIT).
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clpack.pruning import SCORES, Trace, max_loss_increase

__all__ = ["main", "measure"]

_ROUNDS = 5
_BATCH_SIZE = 64
_BYTES_PER_PRESENTATION = 9  # of a trace: two float32 and a bool


def measure(
    num_samples: int = 60_000,
    num_presentations: int = 200,
    *,
    epoch_samples: int = 12_800,
    epochs: int = 21,
    memory_samples: int = 1_280_000,
    memory_presentations: int = 90,
) -> list[dict[str, Any]]:
    """Returns one row per comparison: ``what``, ``unit``, ``ours``, ``other`` and ``ratio``.

    Times are medians, and ``spread`` holds the quartiles of the ratio over the rounds (None for memory). The ratio is
    ours to the other, but for recording, where it says how many times as fast ours is.

    Args:
        num_samples: of the trace that is scored and of the epoch that is recorded.
        num_presentations: of the trace that is scored.
        epoch_samples: images of an epoch of the MNIST network.
        epochs: of the MNIST network, with and without recording each; at least 2.
        memory_samples: of the trace whose scores are weighed.
        memory_presentations: of that trace.
    """
    return [
        _scoring(num_samples, num_presentations),
        _recording(num_samples),
        _plumbing(epoch_samples, epochs),
        _memory(memory_samples, memory_presentations),
    ]


def _scoring(num_samples: int, num_presentations: int) -> dict[str, Any]:
    loss = np.random.default_rng(0).random((num_presentations, num_samples), dtype=np.float32)
    ours, other = _in_turns(lambda: max_loss_increase(loss), loss.sum, 4 * _ROUNDS)
    return _row(f"MLI of {num_samples} x {num_presentations}, times the sum of the losses", 1e3, "ms", ours, other)


def _recording(num_samples: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(num_samples, generator=generator)
    logits = torch.randn(num_samples, 10, generator=generator)
    targets = torch.randint(10, (num_samples,), generator=generator)
    losses = F.cross_entropy(logits, targets, reduction="none")
    columns = (order, logits, targets, losses, logits.argmax(dim=1))
    batches = list(zip(*(column.split(_BATCH_SIZE) for column in columns), strict=True))

    def record() -> None:
        trace = Trace(num_samples, num_presentations_hint=1)
        for ids, outputs, labels, _, _ in batches:
            trace.record(ids, outputs, labels)
        _ = trace.loss

    ours, other = _in_turns(record, lambda: _record_by_loop(batches), _ROUNDS)
    return _row(f"recording {num_samples} samples, times as fast as a loop", 1e3, "ms", ours, other, speedup=True)


def _record_by_loop(batches: list[tuple[Tensor, ...]]) -> dict[int, list[list[float]]]:
    """Records as the authors do: lists for each sample, filled one sample at a time; losses come for free."""
    stats: dict[int, list[list[float]]] = {}
    for ids, logits, targets, losses, predicted in batches:
        correct = predicted == targets
        for position, sample in enumerate(ids.tolist()):
            ordered, _ = torch.sort(logits[position])
            highest_other = ordered[-2] if correct[position] else ordered[-1]
            margin = logits[position, int(targets[position])].item() - highest_other.item()
            entry = stats.setdefault(sample, [[], [], []])
            entry[0].append(losses[position].item())
            entry[1].append(correct[position].sum().item())
            entry[2].append(margin)
    return stats


def _plumbing(num_samples: int, epochs: int) -> dict[str, Any]:
    from avalanche.benchmarks import nc_benchmark
    from avalanche.training.supervised import Naive

    from clpack.data import TensorImages
    from clpack.models import MNISTNet
    from clpack.strategies import InMemoryLoaderPlugin, TracePlugin

    images = TensorImages(torch.rand(num_samples, 1, 28, 28), torch.arange(num_samples) % 10)
    experience = nc_benchmark(images, images, 1, task_labels=False, shuffle=False).train_stream[0]

    def strategy(*plugins: Any) -> Any:
        model = MNISTNet()
        return Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5),
            train_mb_size=_BATCH_SIZE,
            plugins=[*plugins, InMemoryLoaderPlugin()],
            evaluator=None,
        )

    recorder = TracePlugin()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        recorded, plain = strategy(recorder), strategy()

    def train_recorded() -> None:
        recorded.train(experience)
        _ = recorder.traces[0].length  # what waits is a part of the work

    ours, other = _in_turns(train_recorded, lambda: plain.train(experience), epochs)
    return _row(f"epoch of {num_samples} with TracePlugin, times one without", 1e3, "ms", ours, other)


def _memory(num_samples: int, num_presentations: int) -> dict[str, Any]:
    loss = np.random.default_rng(0).random((num_presentations, num_samples), dtype=np.float32)
    channels = {"loss": loss, "margin": loss, "correct": loss < 0.5}
    peaks = []
    for score in SCORES.values():
        if score.running is not None:  # needs nothing but a trace
            tracemalloc.start()
            score.function(channels[score.requires[0]])
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    trace_bytes = _BYTES_PER_PRESENTATION * loss.size
    ours, other = ([float(value)] for value in (trace_bytes + max(peaks), trace_bytes))
    row = _row(
        f"trace of {num_samples} x {num_presentations} while scored, times the trace", 2**-20, "MiB", ours, other
    )
    return {**row, "spread": None}


def _in_turns(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Returns processor seconds of each of both in each round but the first, in turns that begin with either.

    Other work on the machine counts little then, and a slow moment hits both.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            (ours, other)[which]()
            times[which].append(time.process_time() - start)
    return times[0][1:], times[1][1:]


def _row(
    what: str, scale: float, unit: str, ours: list[float], other: list[float], *, speedup: bool = False
) -> dict[str, Any]:
    numerator, denominator = (other, ours) if speedup else (ours, other)
    ratios = [above / below for above, below in zip(numerator, denominator, strict=True)]
    medians = {"ours": statistics.median(ours), "other": statistics.median(other)}
    return {
        "what": what,
        "unit": unit,
        **{name: scale * value for name, value in medians.items()},
        "ratio": statistics.median(numerator) / statistics.median(denominator),
        "spread": tuple(np.quantile(ratios, (0.25, 0.75)).tolist()),
    }


def main() -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    torch.set_num_threads(1)
    table = Table(title="data pruning, one thread")
    for heading in ("what", "clpack", "other", "ratio", "quartiles"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for row in measure():
        spread = "" if row["spread"] is None else " to ".join(f"{value:.3g}" for value in row["spread"])
        figures = f"{row['ours']:.4g} {row['unit']}", f"{row['other']:.4g} {row['unit']}", f"{row['ratio']:.3g}"
        table.add_row(row["what"], *figures, spread)
    Console().print(table)


if __name__ == "__main__":
    main()
