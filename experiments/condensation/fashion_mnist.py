"""Condensing Fashion-MNIST: test accuracy at 1, 10 and 50 images per class, and with factors of the same size."""

from clpack.experiments.condensation.equal_memory import equal_memory_table

EXPERIMENT = equal_memory_table(
    "fashion_mnist",
    "Condensing Fashion-MNIST",
    {
        "DC": (70.5, 82.3, 83.6),
        "DSA": (70.6, 84.6, 88.7),
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
