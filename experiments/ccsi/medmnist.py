"""Class-incremental MedMNIST in four steps: blood cells, tissue of the colon, organs, and kidney cells."""

from dataclasses import replace

from clpack.experiments.ccsi.protocol import MEDMNIST_OF_CCSI, METRICS, PAPER, ROWS, SMOKE, medmnist_column
from clpack.experiments.config import Experiment

EXPERIMENT = Experiment(
    name="ccsi/medmnist",
    title="Learning the classes of MedMNIST in four steps without old images",
    paper=PAPER,
    rows=tuple(replace(row, settings_by_column=MEDMNIST_OF_CCSI) if row.label == "CCSI" else row for row in ROWS),
    columns=tuple(medmnist_column(name) for name in MEDMNIST_OF_CCSI),
    presets={
        "short": {"seeds": (1, 2), "train_epochs": 20, "strategy.iterations": 200},
        "smoke": {**SMOKE, "columns": ("BloodMNIST",), "strategy.images_per_class": None, "strategy.num_batches": 1},
    },
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
