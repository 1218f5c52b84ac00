"""Figure 6 of the paper: all tasks train on the images of one generator, and are tested on natural ones.

The natural images come with the data of the generator, so the test images differ between the columns, as in the paper.
The column "natural" is GenImage-Disjoint without synthetic images.
"""

from __future__ import annotations

from clpack.experiments.config import Column, Component, Experiment
from clpack.experiments.epochloss.published import references
from clpack.experiments.epochloss.three_steps import (
    ACCURACIES,
    DIGITS_SMOKE,
    NETWORK,
    PAPER,
    SHORT,
    SMOKE,
    TRAINING,
    row,
)

_DATA = ("natural", "ADM", "BigGAN", "Midjourney", "glide", "stable_diffusion_v_1_4", "VQDM")


def _stream(data: str) -> Component:
    common = {"n_experiences": 6, "seed": 0}
    if data == "natural":
        return Component("GenImageDisjoint", common)
    return Component("GenImageCL", {"generator": data, "synthetic_tasks": 6, **common})


EXPERIMENT = Experiment(
    name="epochloss/figure6",
    title="Figure 6: training on the images of one generator",
    paper=PAPER,
    rows=tuple(row("No removal", attacked=attacked, pretrained=True) for attacked in (False, True)),
    columns=tuple(Column(data, _stream(data), NETWORK, TRAINING) for data in _DATA),
    seeds=(1, 2, 3),
    references=references("figure6"),
    presets={
        "short": {**SHORT, "seeds": (1,)},
        "smoke": {**SMOKE, **DIGITS_SMOKE, "columns": ("natural",)},
    },
    metrics=(*ACCURACIES, "synthetic_learning_accuracy"),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
