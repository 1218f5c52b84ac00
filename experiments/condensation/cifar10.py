"""Condensing CIFAR-10: test accuracy at 1, 10 and 50 images per class, and with low-rank factors of the same size."""

from clpack.experiments.condensation.equal_memory import equal_memory_table

EXPERIMENT = equal_memory_table(
    "cifar10",
    "Condensing CIFAR-10",
    {
        "Random": ((15.4, 0.3), (31.0, 0.5), (50.6, 0.3)),
        "Herding": ((21.5, 1.3), (31.6, 0.7), (40.4, 0.6)),
        "DC": ((28.3, 0.5), (44.9, 0.5), (53.9, 0.5)),
        "DSA": ((28.8, 0.7), (52.1, 0.5), (60.6, 0.5)),
        "DM": ((26.0, 0.8), (48.9, 0.6), (63.0, 0.4)),
        "MTT": ((46.2, 0.8), (65.4, 0.7), (71.6, 0.2)),
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
