"""What pixel noise does to forgetting: Gaussian noise in all pixels of the training images, of growing deviation."""

from clpack.experiments.config import Column, Component, Experiment, Row
from clpack.experiments.mli.removal import CIFAR_TRAINING, MNIST_TRAINING, PAPER

EXPERIMENT = Experiment(
    name="mli/pixel_noise",
    title="Forgetting under pixel noise",
    paper=PAPER,
    rows=(Row("SGD", Component("Trace")),),
    columns=tuple(
        Column(
            f"{name}, deviation {std}" if std else f"{name}, no noise",
            Component(stream, {"n_experiences": 1, "seed": 0, "pixel_noise": std, **options}),
            model,
            training,
            x=std or 0,
        )
        for name, stream, options, model, training in (
            ("MNIST", "NoisyMNIST", {}, Component("MNISTNet", {"dropout": False}), MNIST_TRAINING),
            ("CIFAR-10", "NoisyCIFAR10", {"augmentation": "crop_flip"}, Component("ResNet18"), CIFAR_TRAINING),
        )
        for std in (None, 0.5, 1, 2, 10)
    ),
    presets={
        "short": {
            "seeds": (1, 2),
            "train_epochs": 12,
            "columns": ("MNIST, no noise", *(f"MNIST, deviation {std}" for std in (0.5, 1, 2, 10))),
        },
        "smoke": {"seeds": (1,), "train_epochs": 2, "columns": ("MNIST, no noise", "MNIST, deviation 10")},
    },
    metrics=("unforgettable", "forgetting_events", "average_accuracy"),
    x_label="standard deviation of the noise, of 255",
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
