"""How many samples of CIFAR-100 can go: removal in the order of forgetting, of MLI, and at random."""

from clpack.experiments.mli.removal import cifar_table

EXPERIMENT = cifar_table("mli/cifar100", "Removing samples of CIFAR-100", "NoisyCIFAR100")

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
