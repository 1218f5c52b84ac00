"""Figure 5 of the paper: the first tasks of GenImage-Disjoint train on synthetic images, tests are on natural ones.

Without synthetic tasks these are the runs of figure 2, and are computed once for both if the results share a folder.
"""

from __future__ import annotations

from clpack.experiments.config import Component, Reference
from clpack.experiments.epochloss.substitution import substitution_table
from clpack.experiments.epochloss.three_steps import ACCURACIES, DIGITS_SMOKE, SHORT, label

_SOURCE = "read off figure 5, which has no error bars"

_RESULTS = {  # percent, by method and rate of removal: for 0 to 6 synthetic tasks; clean, then attacked
    ("No removal", None): ((49.5, 52.6, 51.1, 48.3, 44.7, 40.8, 40.2), (9.6, 10.6, 10.4, 10.1, 9.8, 9.3, 9.2)),
    ("Caper", 20): ((50.6, 51.5, 49.3, 46.6, 43.0, 40.1, 38.9), (8.3, 8.8, 8.8, 8.6, 8.8, 8.4, 8.4)),
    ("EpochLoss", 20): ((53.8, 54.3, 51.7, 48.5, 44.5, 40.4, 39.6), (11.2, 11.8, 11.2, 10.4, 10.3, 9.5, 9.6)),
    ("Random", 20): ((50.8, 51.3, 49.8, 47.2, 43.2, 39.8, 39.3), (7.9, 9.1, 8.8, 9.3, 8.9, 8.7, 8.6)),
    ("Caper", 40): ((48.3, 48.8, 47.3, 45.0, 41.8, 38.8, 38.1), (7.0, 8.2, 7.8, 7.7, 7.6, 7.7, 7.8)),
    ("EpochLoss", 40): ((52.0, 52.8, 50.5, 47.5, 43.3, 39.3, 38.6), (11.2, 12.2, 11.9, 11.1, 10.6, 10.1, 10.0)),
    ("Random", 40): ((44.4, 44.7, 43.8, 41.6, 39.1, 36.6, 35.8), (6.5, 7.6, 7.4, 7.3, 7.5, 7.2, 7.1)),
    ("Caper", 60): ((45.1, 44.1, 43.2, 41.8, 38.8, 36.7, 36.2), (5.6, 6.8, 6.8, 6.7, 6.6, 6.5, 6.4)),
    ("EpochLoss", 60): ((49.5, 48.8, 46.4, 43.9, 39.9, 37.1, 36.3), (11.3, 12.1, 11.2, 10.7, 9.9, 9.2, 9.0)),
    ("Random", 60): ((47.0, 47.8, 46.5, 44.9, 41.2, 38.9, 38.3), (5.9, 7.0, 7.1, 6.7, 6.8, 6.9, 7.0)),
}

EXPERIMENT = substitution_table(
    "epochloss/figure5",
    "Figure 5: synthetic images instead of natural ones in GenImage-Disjoint",
    Component("GenImageDisjoint", {"n_experiences": 6, "seed": 0}),
    n_tasks=6,
    presets={"short": {**SHORT, "seeds": (1,)}, "smoke": {**DIGITS_SMOKE, "columns": ("0 synthetic",)}},
    pretrained=True,
    references=[
        Reference(
            label(method, attacked=bool(attacked), percent=percent),
            f"{count} synthetic",
            ACCURACIES[attacked],
            mean,
            source=_SOURCE,
        )
        for (method, percent), results in _RESULTS.items()
        for attacked in (0, 1)
        for count, mean in enumerate(results[attacked])
    ],
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
