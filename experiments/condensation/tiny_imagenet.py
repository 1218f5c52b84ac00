"""Condensing Tiny-ImageNet: test accuracy at 1, 10 and 50 images per class, and with factors of the same size.

The short presets use a part of the data, with 80 training images of each class.
"""

from clpack.experiments.condensation.equal_memory import equal_memory_table

EXPERIMENT = equal_memory_table(
    "tiny_imagenet",
    "Condensing Tiny-ImageNet",
    {
        "Random": ((1.4, 0.1), (5.0, 0.2), (15.0, 0.4)),
        "DM": ((3.9, 0.2), (12.9, 0.4), (24.1, 0.3)),
        "MTT": ((8.8, 0.3), (23.2, 0.2), (28.0, 0.3)),
    },
    short={
        "stream.subset": True,
        "columns": ("1 per class",),
        "train_epochs": 101,
        "source.strategy.iterations": 100,
        "source.strategy.batch_real": 16,
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
