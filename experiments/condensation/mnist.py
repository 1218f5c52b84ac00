"""Condensing MNIST: test accuracy at 1, 10 and 50 images per class, and with low-rank factors of the same size."""

from clpack.experiments.condensation.equal_memory import equal_memory_table

EXPERIMENT = equal_memory_table(
    "mnist",
    "Condensing MNIST",
    {
        "DC": (91.7, 97.4, 98.8),
        "DSA": (88.7, 97.8, 99.2),
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
