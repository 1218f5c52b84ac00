"""Figure 2 of the paper: 20, 40 or 60 % of each task removed from natural GenImage-Disjoint, in four ways.

The figure shows each task; compared are the means over the six tasks. Their deviations follow from the error bars of
the tasks, taken as independent. "Random" has no balance between the classes, as in the authors' program.
"""

from __future__ import annotations

from clpack.experiments.config import Component, Reference
from clpack.experiments.epochloss.removal import removal_table
from clpack.experiments.epochloss.three_steps import ACCURACIES, METHODS, PERCENTS, SHORT, SMOKE_PRETRAINING, label

_SOURCE = "read off figure 2: the mean of its six tasks, and the deviation that their error bars give"

_RESULTS = {  # percent, by method: mean and deviation for each rate of removal; clean, then attacked
    "No removal": (((49.5, 0.5), (49.5, 0.5), (49.5, 0.5)), ((9.6, 0.5), (9.6, 0.5), (9.6, 0.5))),
    "Caper": (((50.6, 0.7), (48.3, 0.6), (45.1, 0.7)), ((8.3, 0.3), (7.0, 0.4), (5.6, 0.2))),
    "EpochLoss": (((53.8, 0.5), (52.0, 0.6), (49.5, 0.6)), ((11.2, 0.2), (11.2, 0.3), (11.3, 0.3))),
    "Random": (((50.8, 0.5), (44.4, 0.4), (47.0, 0.8)), ((7.9, 0.3), (6.5, 0.3), (5.9, 0.3))),
}

EXPERIMENT = removal_table(
    "epochloss/figure2",
    "Figure 2: removing samples from GenImage-Disjoint",
    Component("GenImageDisjoint", {"n_experiences": 6, "seed": 0}),
    presets={"short": {**SHORT, "seeds": (1,)}, "smoke": SMOKE_PRETRAINING},
    pretrained=True,
    references=tuple(
        Reference(label(method, attacked=bool(attacked)), f"{percent} %", ACCURACIES[attacked], mean, std, _SOURCE)
        for method in METHODS
        for attacked in (0, 1)
        for percent, (mean, std) in zip(PERCENTS, _RESULTS[method][attacked], strict=True)
    ),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
