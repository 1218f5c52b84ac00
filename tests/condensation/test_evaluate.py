"""Evaluation, experts and whitening: what they compute, that they repeat, and errors."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from clpack.condensation import ZCA, ExpertBuffer, classification_accuracy, evaluate, train_experts, trajectory_distance
from clpack.condensation.trajectories import ExpertsOnDemand
from clpack.models import ConvNet


def network():
    return ConvNet(2, input_size=8, in_channels=1, width=4, depth=1)


@pytest.fixture
def data():
    targets = torch.arange(40) % 2
    images = torch.randn(40, 1, 8, 8) + 2.0 * (targets * 2 - 1)[:, None, None, None] * torch.eye(8)
    return images, targets


@pytest.mark.parametrize(("augmentation", "family"), [("none", "dsa"), ("color_crop", "dsa"), ("crop_noise", "dc")])
def test_evaluation(data, augmentation, family):
    images, targets = data
    state = torch.get_rng_state()
    options = {"network": network, "epochs": 20, "lr": 0.05, "augmentation": augmentation, "family": family}
    result = evaluate(images[:10], targets[:10], images[10:], targets[10:], num_networks=3, **options)
    assert result.mean > 0.8
    assert len(result.accuracies) == 3
    assert result.std == pytest.approx(torch.tensor(result.accuracies).double().std(correction=0).item())
    again = evaluate(images[:10], targets[:10], images[10:], targets[10:], num_networks=2, **options)
    assert again.accuracies == result.accuracies[:2]
    assert torch.equal(torch.get_rng_state(), state)


def test_network_by_name(data):
    images, targets = (torch.nn.functional.interpolate(data[0], 28), data[1])
    result = evaluate(images[:4], targets[:4], images, targets, network="LeNet", epochs=1, num_networks=1)
    assert 0.0 <= result.mean <= 1.0


def test_accuracy_keeps_the_mode(data):
    model = network().train()
    accuracy = classification_accuracy(model, *data, batch_size=7)
    assert model.training
    assert accuracy == (model(data[0]).argmax(1) == data[1]).double().mean().item()


def test_trajectory_distance_by_hand():
    student, target, start = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    assert trajectory_distance(student, target, start).item() == 4.0
    with pytest.raises(ValueError, match=r"one length, got shapes \(2,\), \(3,\) and \(2,\)"):
        trajectory_distance(student, torch.zeros(3), start)


def test_experts_go_on_after_an_interruption(data, tmp_path):
    options = {"epochs": 2, "network": network, "augmentation": "flip", "batch_size": 16}
    seen = []
    whole = train_experts(*data, tmp_path / "whole", num_experts=3, **options)
    train_experts(*data, tmp_path / "parts", num_experts=1, **options)
    parts = train_experts(
        *data, tmp_path / "parts", num_experts=3, callback=lambda expert, result: seen.append(expert), **options
    )
    assert seen == [1, 1, 2, 2]
    assert (len(parts), parts.num_epochs) == (3, 2)
    assert parts.num_parameters == sum(parameter.numel() for parameter in network().parameters())
    for expert in range(3):
        for epoch in range(3):
            assert torch.equal(parts.parameters(expert, epoch), whole.parameters(expert, epoch))
    assert not torch.equal(parts.parameters(0, 0), parts.parameters(1, 0))
    assert not torch.equal(parts.parameters(0, 0), parts.parameters(0, 1))
    with safe_open(tmp_path / "parts" / "expert_0001.safetensors", framework="pt") as file:
        assert file.get_slice("snapshots").get_shape() == [3, parts.num_parameters]
    with pytest.raises(ValueError, match="was trained with .*choose another folder"):
        train_experts(*data, tmp_path / "parts", num_experts=3, **{**options, "lr": 0.1})
    with pytest.raises(ValueError, match="was trained with .*choose another folder"):
        train_experts(data[0] + 1, data[1], tmp_path / "parts", num_experts=3, **options)
    with pytest.raises(ValueError, match="holds no expert"):
        ExpertBuffer(tmp_path)


def test_as_many_experts_as_asked_for(data, tmp_path):
    options = {"epochs": 1, "network": network, "augmentation": "flip"}
    assert len(train_experts(*data, tmp_path, num_experts=3, **options)) == 3
    fewer = train_experts(*data, tmp_path, num_experts=2, **options)
    assert [path.name for path in fewer.paths] == ["expert_0000.safetensors", "expert_0001.safetensors"]
    assert len(fewer) == len(ExpertBuffer(tmp_path, 2)) == 2
    assert len(ExpertBuffer(tmp_path)) == 3
    with pytest.raises(ValueError, match="num_experts must be from 1 to 3, the experts in .*, got 4"):
        ExpertBuffer(tmp_path, 4)


def test_experts_on_demand(data, tmp_path):
    options = {"epochs": 2, "network": network, "num_classes": 3, "device": torch.device("cpu")}
    options |= {"lr": 0.1, "batch_size": 16, "augmentation": "flip", "family": "dsa", "seed": 2}
    trained = train_experts(*data, tmp_path / "trained", num_experts=2, **options)
    later = ExpertsOnDemand(*data, tmp_path / "later", num_experts=2, **options)
    for name in ("num_epochs", "num_parameters", "settings"):
        assert getattr(later, name) == getattr(trained, name)
    assert len(later) == 2
    assert not (tmp_path / "later").exists()
    assert torch.equal(later.parameters(1, 2), trained.parameters(1, 2))
    assert len(list((tmp_path / "later").iterdir())) == 2


def test_whitening():
    mixing = torch.randn(12, 12)
    images = (torch.randn(4000, 12) @ mixing + 3).view(4000, 3, 2, 2)
    whitening = ZCA(images, eps=1e-6)
    white = whitening(images).flatten(1)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(12), rtol=0, atol=1e-2)
    torch.testing.assert_close(white.mean(0), torch.zeros(12), rtol=0, atol=1e-2)
    torch.testing.assert_close(whitening.inverse(whitening(images)), images, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(whitening.matrix, whitening.matrix.T)  # the whitening that turns nothing
    damped = ZCA(images, eps=0.5)(images).flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(images.flatten(1).T))
    expected = vectors @ torch.diag(values / (values + 0.5)) @ vectors.T
    torch.testing.assert_close(torch.cov(damped.T), expected, rtol=1e-2, atol=1e-2)


def test_bad_arguments(data):
    images, targets = data
    pair = (images, targets)
    for arguments, options, message in (
        ((*pair, images[:, :, :4], targets), {}, r"shape of images, \(1, 8, 8\), got \(1, 4, 8\)"),
        ((*pair, *pair), {"num_networks": 0}, "num_networks must be at least 1, got 0"),
        ((*pair, *pair), {"epochs": -1, "network": network}, "epochs is too small, got -1"),
        ((*pair, *pair), {"family": "mtt", "network": network}, "family must be 'dsa' or 'dc', got 'mtt'"),
        ((*pair, *pair), {"network": "Convnet"}, "unknown network 'Convnet': did you mean 'ConvNet'"),
        ((images, -targets, *pair), {}, "targets must not be negative, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(*arguments, **{"epochs": 1, **options})
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        ZCA(images, eps=0)
