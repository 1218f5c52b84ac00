"""Naive optimizers against their TAG versions on permuted digits: TAG's check in seconds.

Eight tasks: scikit-learn's digits, each task with its pixels in another fixed order, labels offset by ten; task labels
are known, and logits of other tasks are masked. The learning rates are the best of a small grid on the test metric, for
all methods alike, so the numbers compare methods and do not estimate what a new data set would give.
"""

from clpack.experiments.config import Column, Component, Experiment, Reference, Row
from clpack.experiments.tag.protocol import METRICS, PAPER

_SOURCE = "the authors' code on the same stream"

_RESULTS = {  # accuracy in percent, forgetting as a fraction, learning accuracy in percent; mean and std of 3 seeds
    "SGD": ((62.5, 6.0), (0.254, None), (84.4, None)),
    "RMSProp": ((64.7, 0.2), (0.209, None), (83.0, None)),
    "Adagrad": ((73.7, 1.7), (0.179, None), (89.3, None)),
    "Adam": ((64.2, 1.7), (0.231, None), (84.4, None)),
    "TAG-RMSProp": ((79.7, 1.4), (0.088, None), (87.4, None)),
    "TAG-Adagrad": ((80.5, 1.1), (0.083, None), (87.7, None)),
    "TAG-Adam": ((77.3, 1.0), (0.103, None), (85.9, None)),
}


def _row(label: str, name: str, lr: float, **options: object) -> Row:
    return Row(label, Component(name, {"lr": lr, **options}))


PERMUTED_DIGITS = Column(
    "Permuted digits, 8 tasks",
    Component(
        "PermutedDigits",
        {"n_experiences": 8, "return_task_id": True, "class_ids_from_zero_in_each_exp": False, "seed": 0},
    ),
    Component("MLP", {"hidden_sizes": [64, 64], "head": "masked"}),
    {"train_mb_size": 10, "eval_mb_size": 256},
)

EXPERIMENT = Experiment(
    name="tag/digits",
    title="TAG on permuted digits",
    paper=PAPER,
    rows=(
        _row("SGD", "Naive", 0.2),
        _row("RMSProp", "Naive", 0.001, optimizer="RMSprop"),
        _row("Adagrad", "Naive", 0.05, optimizer="Adagrad"),
        _row("Adam", "Naive", 0.001, optimizer="Adam"),
        _row("TAG-RMSProp", "TAG", 0.001, b=5.0),
        _row("TAG-Adagrad", "TAG", 0.01, optimizer="TAG-Adagrad", b=5.0),
        _row("TAG-Adam", "TAG", 0.002, optimizer="TAG-Adam", b=5.0),
    ),
    columns=(PERMUTED_DIGITS,),
    seeds=(1, 2, 3),
    references=tuple(
        Reference(row, PERMUTED_DIGITS.label, metric, mean, std, _SOURCE)
        for row, values in _RESULTS.items()
        for metric, (mean, std) in zip(METRICS, values, strict=True)
    ),
    presets={"smoke": {"seeds": [1], "stream.n_experiences": 2}},
    metrics=METRICS,
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
