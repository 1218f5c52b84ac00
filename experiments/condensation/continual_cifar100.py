"""Class-incremental CIFAR-100 from a memory alone; the published number of images, 80 per class, is that of rank 4."""

from clpack.experiments.condensation.continual import continual_table

EXPERIMENT = continual_table("cifar100", "CIFAR-100 from a memory alone", images_per_class=20, rank=4)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
