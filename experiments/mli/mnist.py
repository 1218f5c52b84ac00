"""How many samples of MNIST can go: removal in the order of forgetting, of MLI, and at random."""

from clpack.experiments.config import Component
from clpack.experiments.mli.removal import mnist_table

EXPERIMENT = mnist_table(
    "mli/mnist",
    "Removing samples of MNIST",
    Component("SplitMNIST", {"n_experiences": 1, "seed": 0}),
    98.98,
    {
        "Forgetting": (99.05, 99.15, 99.18, 99.26, 99.15, 98.99, 96.55, 77.71),
        "MLI": (99.00, 99.10, 99.18, 99.18, 99.11, 98.89, 97.12, 69.09),
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
