"""The networks against the recordings, and their shapes and errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from clpack.models import MLP, ReducedResNet18


@pytest.mark.parametrize("name", ["resnet_forward_32", "resnet_forward_84"])
def test_reduced_resnet_recordings(golden, name):
    recording = golden(f"tag/{name}")
    meta = recording.meta
    model = ReducedResNet18(meta["total_classes"], input_size=meta["input_size"], width=meta["nf"]).double()
    model.load_state_dict(recording.below("sd/"))
    images, labels = recording["x"], recording["y"].long()
    close = {"rtol": 1e-9, "atol": 1e-12}
    blocked = torch.ones(meta["total_classes"], dtype=torch.bool)
    first = (meta["task_1based"] - 1) * meta["classes_per_task"]
    blocked[first : first + meta["classes_per_task"]] = False
    with torch.no_grad():
        logits = model.eval()(images)
    torch.testing.assert_close(logits, recording["eval_logits_none"], **close)
    torch.testing.assert_close(logits.masked_fill(blocked, -1e11), recording["eval_logits_task"], **close)
    loss = functional.cross_entropy(model.train()(images).masked_fill(blocked, -1e11), labels)
    loss.backward()
    torch.testing.assert_close(loss.detach(), recording["train_loss"].double(), **close)
    for parameter, value in model.named_parameters():
        torch.testing.assert_close(value.grad, recording[f"grad/{parameter}"], **close)
    torch.testing.assert_close(model.bn1.running_mean, recording["running_mean_after/bn1"], **close)


def test_reduced_resnet_has_the_published_size():
    model = ReducedResNet18()
    assert sum(parameter.numel() for parameter in model.parameters()) == 496_680
    assert len(list(model.parameters())) == 48
    assert sum(parameter.numel() for parameter in ReducedResNet18(input_size=84).parameters()) == 544_680


@pytest.mark.parametrize("size", [25, 28, 32, 33, 64])
def test_reduced_resnet_head_fits_every_image_size(size):
    model = ReducedResNet18(7, input_size=size, in_channels=1, width=2)
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 7)


def test_dropout_acts_in_training_only():
    model = ReducedResNet18(5, width=2, dropout=0.5)
    images = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_mlp_shapes():
    model = MLP(80, input_size=64, hidden_sizes=(64, 32))
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 80)
    assert model.features(torch.zeros(3, 1, 8, 8)).shape == (3, model.num_features) == (3, 32)
    assert sum(p.numel() for p in model.parameters()) == 64 * 64 + 64 + 64 * 32 + 32 + 32 * 80 + 80


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ReducedResNet18(0), "must be positive, got 0, 3 and 20"),
        (lambda: ReducedResNet18(input_size=24), "input_size must be at least 25 pixels .* got 24"),
        (lambda: ReducedResNet18(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: MLP(input_size=0), "must be positive, got 10 and 0"),
        (lambda: MLP(hidden_sizes=()), r"at least one positive width, got \(\)"),
        (lambda: MLP(dropout=-0.1), r"dropout must be in \[0, 1\)"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
