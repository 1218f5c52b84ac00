"""Replay in memories of equal size on class-incremental streams: samples, or condensed images."""

from clpack.experiments.condensation.replay import replay_table

EXPERIMENT = replay_table("fashion_mnist", "Replay in equal memories, Fashion-MNIST", image_shape=(1, 28, 28))

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
