"""The substitution comparison of the paper on SplitCIFAKE: the first tasks train on images of Stable Diffusion 1.4.

The preset "short" has clean training, without removal and with 40 % removed by EpochLoss or at random. It is sized
for some ten minutes of one processor core.
"""

from dataclasses import replace

from clpack.experiments.epochloss.cifake import CIFAKE_SHORT, CIFAKE_SMOKE, CIFAKE_STREAM
from clpack.experiments.epochloss.substitution import substitution_table
from clpack.experiments.epochloss.three_steps import METHODS, label

EXPERIMENT = substitution_table(
    "epochloss/cifake_substitution",
    "Synthetic images instead of natural ones in SplitCIFAKE: a part of CIFAKE-FAKE for CIFAR-10 (JPEG)",
    replace(CIFAKE_STREAM, options={**CIFAKE_STREAM.options, "synthetic_tasks": 0}),
    n_tasks=5,
    presets={
        "short": {
            **CIFAKE_SHORT,
            "rows": tuple(label(method, attacked=False, percent=40) for method in METHODS if method != "Caper"),
            "columns": tuple(f"{count} synthetic" for count in (0, 1, 3, 5)),
        },
        "smoke": CIFAKE_SMOKE,
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
