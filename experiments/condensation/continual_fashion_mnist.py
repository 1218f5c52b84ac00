"""Class-incremental Fashion-MNIST from a memory alone."""

from clpack.experiments.condensation.continual import continual_table

EXPERIMENT = continual_table("fashion_mnist", "Fashion-MNIST from a memory alone", images_per_class=1, rank=2)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
