"""Which samples of MNIST matter: 5,000 are removed, from the easiest to the hardest.

Accuracy falls with the score of what is removed, until the hardest: removing those, which may be outliers, hurts less.
"""

from clpack.experiments.config import Component
from clpack.experiments.mli.removal import window_table

EXPERIMENT = window_table(
    "mli/window",
    "Removing a window of 5,000 samples of MNIST",
    Component("SplitMNIST", {"n_experiences": 1, "seed": 0}),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
