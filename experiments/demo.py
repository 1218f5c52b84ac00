"""The demonstration: what a continual learner meets, on real digits, in some minutes.

Fine-tuning, replay, replay of condensed images in a memory of the same bytes, replay without 40 % of each experience
(removed by EpochLoss, or at random), TAG, TAG with replay, and joint training, on a class-incremental, a
task-incremental and a permuted stream of scikit-learn's digits, with three seeds. All methods have the same network,
batches and epochs; the learning rates are those of the permuted-digits table of TAG.

A second table is about learning without any data of the past: fine-tuning, LwF and CCSI with a small residual network.
"""

from __future__ import annotations

import os
from pathlib import Path

from .ccsi.protocol import column as data_free_column
from .config import Column, Component, Experiment, Row
from .tag.digits import PERMUTED_DIGITS

__all__ = ["DATA_FREE", "EXPERIMENT", "run_demo"]

_RMSPROP = {"optimizer": "RMSprop", "lr": 0.001}
_TAG = {"optimizer": "TAG-RMSprop", "lr": 0.001, "b": 5.0}
_MEMORY = 100  # samples, of the 1437 in the training data
_MEMORY_BYTES = _MEMORY * (64 + 8)  # of so many samples of 8-bit pixels with their labels
_CONDENSATION = {
    "memory_only": False,
    "memory_bytes": _MEMORY_BYTES,
    "rank": 2,
    "precision": "float16",
    "network": "MLP",
    "iterations": 60,
    "init": "svd",
    "matching_augmentation": "none",  # pixels of a permuted stream have no neighbors
}
_PRUNING = {**_RMSPROP, "mem_size": _MEMORY, "remove_fraction": 0.4, "scoring_epochs": 4, "min_per_class": 1}

EXPERIMENT = Experiment(
    name="demo",
    title="clpack demo: continual learning on handwritten digits",
    paper="scikit-learn's digits: 1797 real images of 8 x 8 pixels, 1437 to train on and 360 to test on",
    rows=(
        Row("Fine-tuning", Component("Naive", _RMSPROP)),
        Row("Replay", Component("Replay", {**_RMSPROP, "mem_size": _MEMORY})),
        Row("Condensed replay, same bytes", Component("CondensedReplay", {**_RMSPROP, **_CONDENSATION})),
        Row("EpochLoss pruning + replay", Component("Pruning+Replay", {**_PRUNING, "score": "epoch_loss"})),
        Row("Random pruning + replay", Component("Pruning+Replay", {**_PRUNING, "score": "random"})),
        Row("TAG", Component("TAG", _TAG)),
        Row("TAG + replay", Component("Replay", {**_TAG, "mem_size": _MEMORY})),
        Row("Joint training", Component("Cumulative", _RMSPROP), upper_bound=True),
    ),
    columns=(
        Column(
            "Split digits, class-incremental",
            Component("SplitDigits", {"n_experiences": 5}),
            Component("MLP", {"hidden_sizes": [64, 64], "head": "incremental"}),
            {"train_epochs": 4, "train_mb_size": 10, "eval_mb_size": 256},
        ),
        Column(
            "Split digits, task-incremental",
            Component("SplitDigits", {"n_experiences": 5, "return_task_id": True}),
            Component("MLP", {"hidden_sizes": [64, 64], "head": "multi"}),
            {"train_epochs": 4, "train_mb_size": 10, "eval_mb_size": 256},
        ),
        PERMUTED_DIGITS,
    ),
    seeds=(1, 2, 3),
    presets={"smoke": {"seeds": [1], "train_epochs": 1, "stream.n_experiences": 2}},
    metrics=("average_accuracy", "forgetting"),
)

DATA_FREE = Experiment(
    name="demo_data_free",
    title="clpack demo: new digits without any image of the old ones",
    paper="scikit-learn's digits, enlarged to 16 x 16 pixels",
    rows=(
        Row("Fine-tuning", Component("Naive")),
        Row("LwF", Component("LwF")),
        Row("CCSI", Component("CCSI"), {"model.head": "cosine"}),
    ),
    columns=(
        data_free_column(
            "Split digits, class-incremental",
            Component("SplitDigits", {"n_experiences": 5, "image_size": 16}),
            10,
            options={"train_epochs": 3, "strategy.iterations": 100, "strategy.images_per_class": 20},
            flip=False,
        ),
    ),
    seeds=(1, 2),
    presets={"smoke": {"seeds": [1], "train_epochs": 1, "stream.n_experiences": 2, "strategy.iterations": 5}},
    metrics=("average_accuracy", "forgetting"),
)


def run_demo(*, out: str | os.PathLike[str], smoke: bool = False) -> int:
    """Runs the demonstration with a live display and shows its tables, the report and the logs.

    Args:
        out: folder of the results; finished cells in it are reused.
        smoke: one seed, two experiences and one epoch.

    Returns:
        The exit status: 0 if every cell finished.
    """
    from .report import print_tables, report
    from .run import run_experiment

    jobs = 1 if smoke else os.cpu_count() or 1  # the smallest cells take less time than starting a process
    preset = "smoke" if smoke else "paper"
    summaries = [run_experiment(table, preset=preset, out=Path(out), jobs=jobs) for table in (EXPERIMENT, DATA_FREE)]
    folder = summaries[0].out
    print_tables(folder, [summary.table for summary in summaries])
    for summary in summaries:
        print(summary)
    print(f"report:      {report(folder).html}")
    print(f"tensorboard: tensorboard --logdir {folder}")
    return 1 if any(summary.with_status("failed") for summary in summaries) else 0
