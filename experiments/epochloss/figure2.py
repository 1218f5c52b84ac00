"""Figure 2 of the paper: 20, 40 or 60 % of each task removed from natural GenImage-Disjoint, in four ways.

Beside ours are the values of the figure: the mean over its six tasks, and each of them. "Random" has no balance between
the classes, as in the authors' program.
"""

from __future__ import annotations

from clpack.experiments.config import Component
from clpack.experiments.epochloss.published import references
from clpack.experiments.epochloss.removal import removal_table
from clpack.experiments.epochloss.three_steps import DIGITS_SMOKE, SHORT

EXPERIMENT = removal_table(
    "epochloss/figure2",
    "Figure 2: removing samples from GenImage-Disjoint",
    Component("GenImageDisjoint", {"n_experiences": 6, "seed": 0}),
    presets={"short": {**SHORT, "seeds": (1,)}, "smoke": DIGITS_SMOKE},
    pretrained=True,
    references=references("figure2"),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
