"""Hybrids of the paper: EWC, A-GEM and ER make the gradient, and SGD, RMSProp or TAG-RMSProp takes the step."""

from clpack.experiments.config import Experiment
from clpack.experiments.tag.protocol import COLUMNS, METRICS, PAPER, SHORT_FIVE, SMOKE, references, row
from clpack.experiments.tag.published import ONE_EPOCH

_METHODS = (
    *("SGD", "RMSProp", "TAG-RMSProp"),
    *(f"{optimizer}{method}" for method in ("EWC", "A-GEM", "ER") for optimizer in ("", "RMSProp-", "TAG-")),
)

EXPERIMENT = Experiment(
    name="tag/hybrids",
    title="Other methods with the steps of RMSProp and TAG-RMSProp",
    paper=PAPER,
    rows=tuple(map(row, _METHODS)),
    columns=COLUMNS,
    references=references(ONE_EPOCH, dict(zip(_METHODS, _METHODS, strict=True))),
    presets={"short": {**SHORT_FIVE, "strategy.mem_size": 40}, "smoke": SMOKE},
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
