"""How many samples of permuted MNIST can go: removal in the order of forgetting, of MLI, and at random.

All runs have the same permutation of the pixels.
"""

from clpack.experiments.config import Component
from clpack.experiments.mli.removal import mnist_table

EXPERIMENT = mnist_table(
    "mli/permuted_mnist",
    "Removing samples of permuted MNIST",
    Component("PermutedMNIST", {"n_experiences": 1, "seed": 0}),
    95.07,
    {
        "Forgetting": (94.86, 95.34, 95.20, 94.21, 92.24, None, 70.45, 27.81),
        "MLI": (95.07, 95.57, 95.42, 94.65, 92.71, 86.89, 68.07, 16.18),
        "Random": (95.16, 94.59, 94.06, 93.64, 92.96, None, 88.92, 78.79),
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
