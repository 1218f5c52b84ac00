"""Figure 3 of the paper, the scheme of substitution, as runs: N-N-N, S-N-N, S-S-N and S-S-S in three tasks.

The figure has no numbers; with six tasks the scheme is figure 5.
"""

from clpack.experiments.config import Component
from clpack.experiments.epochloss.substitution import substitution_table
from clpack.experiments.epochloss.three_steps import DIGITS_SMOKE, SHORT

EXPERIMENT = substitution_table(
    "epochloss/figure3",
    "Figure 3: synthetic images in the first of three tasks of GenImage-Disjoint",
    Component("GenImageDisjoint", {"n_experiences": 3, "seed": 0}),
    n_tasks=3,
    presets={"short": {**SHORT, "seeds": (1,)}, "smoke": {**DIGITS_SMOKE, "columns": ("0 synthetic",)}},
    pretrained=True,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
