"""Condensing SVHN: test accuracy at 1, 10 and 50 images per class, and with low-rank factors of the same size."""

from clpack.experiments.condensation.equal_memory import equal_memory_table

EXPERIMENT = equal_memory_table(
    "svhn",
    "Condensing SVHN",
    {
        "DC": (31.2, 76.1, 82.3),
        "DSA": (27.5, 79.2, 84.4),
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
