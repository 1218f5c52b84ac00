"""The network that the first task on GenImage starts from: GenImage's ResNet-18 trained on Tiny-ImageNet.

The tables of figures 2, 3, 5 and 6 run this cell themselves when they need it, once for all if the results share a
folder, where it leaves its weights in ``pretrained/weights.safetensors``. The authors chose the classes of GenImage so
that none is one of Tiny-ImageNet.
"""

from clpack.experiments.config import Column, Experiment, Row
from clpack.experiments.epochloss.three_steps import PAPER, PRETRAINING, SHORT, SMOKE, TRAINING

assert PRETRAINING.stream is not None
assert PRETRAINING.model is not None

EXPERIMENT = Experiment(
    name="epochloss/pretraining",
    title="Pre-training on Tiny-ImageNet",
    paper=PAPER,
    rows=(Row("Clean training", PRETRAINING.strategy),),
    columns=(Column("Tiny-ImageNet", PRETRAINING.stream, PRETRAINING.model, TRAINING),),
    seeds=PRETRAINING.seeds,
    presets={
        "short": {key.removeprefix("source."): value for key, value in SHORT.items()},
        "smoke": {
            "train_epochs": SMOKE["train_epochs"],
            "model": SMOKE["model"],
            "stream": "SplitDigits",
            "stream.image_size": 16,
        },
    },
    metrics=("average_accuracy",),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
