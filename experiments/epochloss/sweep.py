"""How much can go from each experience of a class-incremental stream: EpochLoss, with and without balance, and random.

All methods replay a small memory, which is filled with samples that were kept.
"""

from typing import Any

from clpack.experiments.config import Column, Component, Experiment, Row

_PERCENTS = (0, 20, 40, 60, 80)


def _columns(
    name: str, stream: str, hidden_sizes: list[int], settings: dict[str, Any], scoring_epochs: int
) -> list[Column]:
    return [
        Column(
            f"{name}, {percent} %",
            Component(stream, {"n_experiences": 5}),
            Component("MLP", {"hidden_sizes": hidden_sizes, "head": "incremental"}),
            {
                **settings,
                "eval_mb_size": 512,
                "strategy.scoring_epochs": scoring_epochs,
                "strategy.remove_fraction": percent / 100,
            },
            x=percent,
        )
        for percent in _PERCENTS
    ]


def _row(label: str, **options: Any) -> Row:
    return Row(label, Component("Pruning+Replay", {"min_per_class": 1, **options}))


EXPERIMENT = Experiment(
    name="epochloss/sweep",
    title="Removing samples from each experience",
    paper="J. Andle et al., Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning",
    rows=(
        Row("No removal", Component("Replay"), upper_bound=True),
        _row("EpochLoss", score="epoch_loss"),
        _row("EpochLoss, balanced", score="epoch_loss", class_cap="balanced"),
        _row("Random", score="random"),
    ),
    columns=(
        *_columns(
            "Split digits",
            "SplitDigits",
            [64, 64],
            {
                "train_epochs": 10,
                "train_mb_size": 10,
                "strategy.mem_size": 100,
                "strategy.optimizer": "RMSprop",
                "strategy.lr": 0.001,
            },
            scoring_epochs=10,
        ),
        *_columns(
            "Split Fashion-MNIST",
            "SplitFMNIST",
            [256, 256],
            {"train_epochs": 5, "train_mb_size": 64, "strategy.mem_size": 500, "strategy.lr": 0.05},
            scoring_epochs=5,
        ),
    ),
    seeds=(1, 2, 3),
    presets={
        "short": {"columns": tuple(f"Split digits, {percent} %" for percent in _PERCENTS)},
        "smoke": {
            "seeds": (1,),
            "columns": ("Split digits, 20 %", "Split digits, 80 %"),
            "train_epochs": 1,
            "strategy.scoring_epochs": 1,
            "stream.n_experiences": 2,
        },
    },
    metrics=("average_accuracy", "forgetting"),
    x_label="removed of each experience (%)",
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
