"""TAG-RMSProp against the baselines of the paper."""

from clpack.experiments.config import Experiment
from clpack.experiments.tag.protocol import COLUMNS, METRICS, PAPER, SHORT_FIVE, SHORT_ROWS, SMOKE, references, row
from clpack.experiments.tag.published import ONE_EPOCH

_METHODS = ("SGD", "RMSProp", "EWC", "A-GEM", "ER", "Stable SGD", "TAG-RMSProp", "Multi-task")

EXPERIMENT = Experiment(
    name="tag/baselines",
    title="TAG-RMSProp and other methods",
    paper=PAPER,
    rows=tuple(map(row, _METHODS)),
    columns=COLUMNS,
    references=references(ONE_EPOCH, dict(zip(_METHODS, _METHODS, strict=True))),
    presets={"short": {**SHORT_FIVE, "seeds": (1, 2, 3), "rows": SHORT_ROWS, "strategy.mem_size": 40}, "smoke": SMOKE},
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
