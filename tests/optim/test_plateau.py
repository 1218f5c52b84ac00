"""The plateau rule against the recorded training loop, its state, and the fixed schedule."""

from __future__ import annotations

import json

import pytest
import torch

from clpack.optim import Plateau, multistep_milestones

CASES = ["flat_300", "rising_300", "mixed_300", "adv_selects_300", "tau50_flat", "zero_acc", "epochs_not_multiple"]


def train(plateau, accuracies, num_epochs, first_epoch=1):
    """Runs the rule; returns the learning rate of each epoch, the epochs of evaluation and that of the weights."""
    rates, evaluated, stored = [], [], None
    accuracies = iter(accuracies)
    for epoch in range(first_epoch, num_epochs + 1):
        rates.append(plateau.lr)
        if plateau.is_due(epoch, num_epochs):
            evaluated.append(epoch)
            if plateau.update(next(accuracies)) == "store":
                stored = epoch
            if plateau.finished:
                break
    return rates, evaluated, stored or epoch


@pytest.mark.parametrize("case", CASES)
def test_recordings(golden, case):
    recording = golden("epochloss/plateau").below(f"{case}_")
    watched = "adv" if recording["use_attack"] else "val"
    plateau = Plateau()
    rates, evaluated, stored = train(plateau, recording[watched].tolist(), int(recording["epochs"]))
    assert rates == recording["lr_per_epoch"].tolist()
    assert evaluated == recording["eval_epochs"].tolist()
    assert stored == recording["restored_epoch"]
    assert plateau.best == recording[f"best_{watched}"]
    assert plateau.finished == (len(rates) < recording["epochs"])


def test_decisions():
    plateau = Plateau(0.5, factor=0.5, min_lr=0.2, patience=2, interval=1)
    decisions = [plateau.update(accuracy) for accuracy in (0.0, 0.1, 0.1, 0.2, 0.2, 0.1, 0.2, 0.1)]
    assert decisions == ["continue", "store", "continue", "store", "continue", "reduce", "continue", "stop"]
    assert (plateau.lr, plateau.best, plateau.finished) == (0.25, 0.2, True)
    with pytest.raises(RuntimeError, match="training is finished: make a new Plateau"):
        plateau.update(1.0)


def test_state(golden):
    recording = golden("epochloss/plateau").below("mixed_300_")
    accuracies = recording["val"].tolist()
    first = Plateau()
    rates, *_ = train(first, accuracies, 60)
    second = Plateau(lr=0.3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rates += train(second, accuracies[12:], 300, first_epoch=61)[0]
    assert rates == recording["lr_per_epoch"].tolist()
    with pytest.raises(ValueError, match="state_dict must have .*'patience_left'.* got \\['lr'\\]"):
        second.load_state_dict({"lr": 0.1})


def test_fixed_schedule(golden):
    recording = golden("epochloss/plateau").below("multistep_50_")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, multistep_milestones(50), gamma=0.2)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == recording["lr_per_epoch"].tolist()
    assert multistep_milestones(53) == [21, 32, 42]
    assert multistep_milestones(1) == [1, 1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Plateau(0.0), "lr must be positive, got 0.0"),
        (lambda: Plateau(1e-5), "lr must be at least min_lr = 0.0001, got 1e-05"),
        (lambda: Plateau(factor=1.0), r"factor must be in \(0, 1\), got 1.0"),
        (lambda: Plateau(patience=0), "patience must be positive, got 0"),
        (lambda: Plateau(interval=0), "interval must be positive, got 0"),
        (lambda: Plateau().update(float("nan")), "accuracy must be a number, got NaN"),
        (lambda: multistep_milestones(0), "num_epochs must be positive, got 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
