"""A-GEM and ER with larger memories: M samples of each class.

The learning rate of ER on Split-miniImageNet is 0.1 for two and three samples, as in the authors' logs, and TAG-ER with
ten samples is for Split-CUB only, as there.
The preset "short" has the slots of all five data sets for those that are at hand.
"""

from clpack.experiments.config import Experiment, Row
from clpack.experiments.tag.protocol import (
    COLUMNS,
    MEMORY,
    METRICS,
    PAPER,
    SHORT_FIVE,
    SMOKE,
    Settings,
    references,
    row,
)
from clpack.experiments.tag.published import ONE_EPOCH

_SIZES = (1, 2, 3, 5, 10)


def _label(method: str, size: int) -> str:
    return f"{method} (M={size})"


def _slots(size: int) -> Settings:
    return {"strategy.mem_size": tuple(size * n_classes for n_classes in MEMORY)}


def _er(size: int) -> Row:
    rates = {"strategy.lr": (0.1, 0.1, 0.01, 0.1)} if size in (2, 3) else {}
    return row("ER", _label("ER", size), changes={**_slots(size), **rates})


EXPERIMENT = Experiment(
    name="tag/memory",
    title="A-GEM and ER with larger memories",
    paper=PAPER,
    rows=(
        *(row("A-GEM", _label("A-GEM", n), changes={"strategy.examples_per_class": (n,) * 4}) for n in _SIZES),
        *map(_er, _SIZES),
        row("TAG-RMSProp"),
        row("TAG-ER", _label("TAG-ER", 10), changes=_slots(10), columns=("Split-CUB",)),
    ),
    columns=COLUMNS,
    references=references(
        ONE_EPOCH,
        {
            **{_label(method, 1): method for method in ("A-GEM", "ER")},
            **{_label(method, n): _label(method, n) for method in ("A-GEM", "ER") for n in _SIZES[1:]},
            "TAG-RMSProp": "TAG-RMSProp",
            _label("TAG-ER", 10): _label("TAG-ER", 10),
        },
    ),
    presets={"short": SHORT_FIVE, "smoke": SMOKE},
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
