"""Figure 6 of the paper: all tasks train on the images of one generator, and are tested on natural ones.

The natural images come with the data of the generator, so the test images differ between the columns, as in the paper.
The column "natural" is GenImage-Disjoint without synthetic images.
"""

from __future__ import annotations

from clpack.experiments.config import Column, Component, Experiment, Reference
from clpack.experiments.epochloss.three_steps import (
    ACCURACIES,
    NETWORK,
    PAPER,
    SHORT,
    SMOKE,
    SMOKE_PRETRAINING,
    TRAINING,
    label,
    row,
)

_SOURCE = "read off figure 6: the mean of its six tasks, and the deviation that their error bars give"

_RESULTS = {  # percent, mean and deviation; clean, then attacked
    "natural": ((49.5, 0.5), (9.6, 0.5)),
    "ADM": ((52.2, 0.4), (12.7, 0.3)),
    "BigGAN": ((42.8, 0.6), (8.6, 0.3)),
    "Midjourney": ((34.1, 0.5), (6.4, 0.2)),
    "glide": ((24.8, 0.6), (6.6, 0.4)),
    "stable_diffusion_v_1_4": ((30.9, 0.5), (8.5, 0.3)),
    "VQDM": ((45.8, 0.4), (9.9, 0.3)),
}


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
    columns=tuple(Column(data, _stream(data), NETWORK, TRAINING) for data in _RESULTS),
    seeds=(1, 2, 3),
    references=tuple(
        Reference(label("No removal", attacked=bool(attacked)), data, ACCURACIES[attacked], *results[attacked], _SOURCE)
        for data, results in _RESULTS.items()
        for attacked in (0, 1)
    ),
    presets={
        "short": {**SHORT, "seeds": (1,)},
        "smoke": {**SMOKE, **SMOKE_PRETRAINING, "columns": ("ADM",), "stream.synthetic_tasks": 2},
    },
    metrics=(*ACCURACIES, "synthetic_learning_accuracy"),
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
