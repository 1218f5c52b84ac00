"""Condensing CIFAR-100: test accuracy at 1, 10 and 50 images per class, and with low-rank factors of the same size."""

from clpack.experiments.condensation.equal_memory import equal_memory_table

EXPERIMENT = equal_memory_table(
    "cifar100",
    "Condensing CIFAR-100",
    {
        "Random": ((4.2, 0.3), (14.6, 0.5), (33.4, 0.4)),
        "Herding": ((8.4, 0.3), (17.3, 0.3), (33.7, 0.5)),
        "DC": ((12.8, 0.3), (25.2, 0.3), None),
        "DSA": ((13.9, 0.3), (32.3, 0.3), (42.8, 0.4)),
        "DM": ((11.4, 0.3), (29.7, 0.3), (43.6, 0.4)),
        "MTT": ((24.3, 0.3), (39.7, 0.4), (47.7, 0.2)),
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
