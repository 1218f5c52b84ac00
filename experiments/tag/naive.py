"""The naive optimizers of the paper against their TAG versions."""

from clpack.experiments.config import Experiment
from clpack.experiments.tag.protocol import COLUMNS, METRICS, PAPER, SHORT_FIVE, SMOKE, references, row
from clpack.experiments.tag.published import ONE_EPOCH

_METHODS = ("SGD", "Adagrad", "TAG-Adagrad", "RMSProp", "TAG-RMSProp", "Adam", "TAG-Adam")

EXPERIMENT = Experiment(
    name="tag/naive",
    title="Naive optimizers and their TAG versions",
    paper=PAPER,
    rows=tuple(map(row, _METHODS)),
    columns=COLUMNS,
    references=references(ONE_EPOCH, dict(zip(_METHODS, _METHODS, strict=True))),
    presets={"short": SHORT_FIVE, "smoke": SMOKE},
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
