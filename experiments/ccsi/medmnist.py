"""Class-incremental MedMNIST in four steps: blood cells, tissue of the colon, organs, and kidney cells."""

from clpack.experiments.ccsi.protocol import METRICS, PAPER, ROWS, SMOKE, column
from clpack.experiments.config import Component, Experiment

_SETS = {"BloodMNIST": 8, "PathMNIST": 9, "OrganAMNIST": 11, "TissueMNIST": 8}

EXPERIMENT = Experiment(
    name="ccsi/medmnist",
    title="Learning the classes of MedMNIST in four steps without old images",
    paper=PAPER,
    rows=ROWS,
    columns=tuple(
        column(name, Component("SplitMedMNIST", {"name": name.lower(), "n_experiences": 4}), n_classes)
        for name, n_classes in _SETS.items()
    ),
    presets={
        "short": {"seeds": (1, 2), "train_epochs": 20, "strategy.iterations": 200},
        "smoke": {**SMOKE, "columns": ("BloodMNIST",)},
    },
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
