"""The removal comparison of the paper on natural SplitCIFAKE: five tasks of two classes of CIFAR-10 (JPEG).

The preset "short" has the rows with clean training, "short_attacked" those with attacked training but for Caper, with a
weaker attack. Each is sized for some ten minutes of one processor core.
"""

from clpack.experiments.epochloss.cifake import CIFAKE_SHORT, CIFAKE_SMOKE, CIFAKE_STREAM
from clpack.experiments.epochloss.removal import removal_table
from clpack.experiments.epochloss.three_steps import METHODS, label

EXPERIMENT = removal_table(
    "epochloss/cifake_removal",
    "Removing samples from SplitCIFAKE, natural images: CIFAR-10 (JPEG)",
    CIFAKE_STREAM,
    presets={
        "short": {
            **CIFAKE_SHORT,
            "rows": tuple(label(method, attacked=False) for method in METHODS),
        },
        "short_attacked": {
            **CIFAKE_SHORT,
            "rows": tuple(label(method, attacked=True) for method in METHODS if method != "Caper"),
            "columns": ("40 %",),
            "stream.images_per_class": 250,
            "strategy.attack_steps": 3,
            "strategy.attack_step_size": 0.015,
        },
        "smoke": CIFAKE_SMOKE,
    },
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
