"""Caper: the recording, cases worked by hand, which layers it takes, and that nothing is changed."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from clpack.attacks import pgd
from clpack.models import MLP, GenImageResNet18, ReducedResNet18
from clpack.pruning import caper, select
from clpack.pruning.caper import filter_prior


@pytest.fixture
def recorded(golden):
    recording = golden("epochloss/caper")
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 8, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(8, track_running_stats=False),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(8, 24, 3, stride=2, padding=1, bias=False),
        bn2=nn.BatchNorm2d(24, track_running_stats=False),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(24, 5),
    )
    model = nn.Sequential(layers)
    model.load_state_dict(recording.below("w_"))
    return recording, model


@pytest.fixture
def network():
    """A linear layer of three filters and a head that weighs them 1 : 2 : 5, with images of four pixels."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2, bias=False))
    model[2].weight.data = torch.tensor([[1.0, 2.0, 5.0], [2.0, 4.0, 10.0]])
    model[2].weight.grad = torch.ones(2, 3)
    return model, torch.rand(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])


def test_recording(recorded):
    recording, model = recorded
    scores = caper(model, recording["x"], noise=recording["noise"], batch_size=int(recording["batch_size"]))
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(scores, recording["score"], **close)
    np.testing.assert_allclose(filter_prior(model.classifier.weight), recording["sens_prior"], **close)
    selection = select(
        scores, remove_fraction=recording["percent"].item() / 100, targets=recording["y"], class_cap="balanced"
    )
    assert selection.removed.tolist() == recording["removed"].nonzero().flatten().tolist()
    named = caper(
        model, recording["x"], layer=model.conv2, head=model.classifier, noise=recording["noise"], batch_size=16
    )
    np.testing.assert_array_equal(named, scores)


def test_filter_prior_by_hand():
    weight = torch.tensor([[1.0, 1.0, 2.0], [3.0, -1.0, -1.0]])  # shares 1/4 1/4 1/2 and 3 -1 -1
    prior = torch.tensor([1.625, -0.375, -0.25])
    expected = (prior + 0.375) / (2.0 + 1e-6)
    torch.testing.assert_close(filter_prior(weight), expected)
    kernels = torch.stack((weight - 0.5, weight + 0.5), dim=2)
    torch.testing.assert_close(filter_prior(kernels), expected)
    torch.testing.assert_close(filter_prior(kernels.flatten(1), num_filters=3), expected)


def test_a_linear_layer_by_hand(network):
    """The movement of a filter of a linear layer is its response to the noise, averaged over the trials."""
    model, images, _ = network
    noise = torch.randn(2, 6, 4)
    movements = (noise @ model[0].weight.detach().t()).abs().mean(0)[:, 1:].double()  # the filters weighed 2 and 5
    movements -= movements.amin(0)
    expected = (movements / (movements.amax(0) + 1e-6)).mean(1)
    scores = caper(model, images, num_filters=2, num_trials=2, noise=noise)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    np.testing.assert_allclose(
        caper(model, images, num_filters=2, num_trials=2, noise=noise, batch_size=4), expected, rtol=1e-4
    )


def test_attacks_instead_of_noise(network):
    model, images, targets = network
    model.eval()
    generator = torch.Generator().manual_seed(3)
    noise = pgd(model, images, targets, generator=copy.deepcopy(generator)) - images
    expected = caper(model, images, num_trials=1, noise=noise[None])
    scores = caper(model, images, targets, perturbation="pgd", generator=generator)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_noise_is_drawn_from_the_generator(network):
    model, images, _ = network
    first, again, other = (caper(model, images, generator=torch.Generator().manual_seed(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(caper(model, images), caper(model, images))
    assert not caper(model, images, noise_std=0.0).any()


@pytest.mark.parametrize(
    ("model", "layer", "head"),
    [
        (MLP(5, input_size=3 * 25 * 25, hidden_sizes=(8, 6)), "features.3", "linear"),
        (ReducedResNet18(5, input_size=25, width=2), "layer4.1.conv1", "linear"),
        (GenImageResNet18(5), "layer4.1.conv2", "linear"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_last_layers_are_taken(model, layer, head):
    images = torch.rand(3, 3, 25, 25)
    named = caper(model, images, layer=model.get_submodule(layer), head=model.get_submodule(head), num_trials=2)
    np.testing.assert_array_equal(caper(model, images, num_trials=2), named)
    assert named.max() > 0.1


def test_maps_that_are_flattened_and_heads_that_are_not_used():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.used, self.unused = nn.Linear(4 * 9, 2), nn.Linear(7, 2)

        def forward(self, images):
            return self.used(self.conv(images).flatten(1))

    model, images = TwoHeads(), torch.rand(6, 1, 5, 5)
    named = caper(model, images, layer=model.conv, head=model.used, num_filters=2)
    np.testing.assert_array_equal(caper(model, images, num_filters=2), named)
    with pytest.raises(ValueError, match="head must follow the layer, .* each of its 4 filters, got 7 inputs"):
        caper(model, images, head=model.unused)


@pytest.mark.parametrize("perturbation", ["gaussian", "pgd"])
def test_everything_is_left_as_it_was(perturbation):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3))
    model[1].eval()
    images, targets = torch.rand(7, 2, 5, 5), torch.randint(0, 3, (7,))
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    before, random_state = images.clone(), torch.get_rng_state()
    caper(model, images, targets, batch_size=3, perturbation=perturbation)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_bad_arguments(network):
    model, images, targets = network
    silent = copy.deepcopy(model)
    silent[2].weight.data.zero_()
    for call, message in (
        (lambda: caper(model, images[:0]), "images is empty"),
        (lambda: caper(model, images, num_trials=0), "num_trials must be at least 1, got 0"),
        (lambda: caper(model, images, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: caper(model, images, noise_std=-1), "noise_std must be finite and not negative, got -1"),
        (lambda: caper(model, images, perturbation="pdg"), "perturbation must be 'gaussian' or 'pgd', got 'pdg'"),
        (lambda: caper(model, images, perturbation="pgd"), "targets is missing: perturbation='pgd' needs"),
        (lambda: caper(model, images, targets[:2]), r"one label per image, shape \(6,\), got \(2,\)"),
        (lambda: caper(model, images, noise=images), r"noise must have shape \(10, 6, 4\), .* got \(6, 4\)"),
        (lambda: caper(silent, images), "weights of an output of the head sum to zero"),
        (lambda: caper(nn.Linear(4, 2), images), "uses 1 convolutional or linear layers, expected a layer and a head"),
        (lambda: caper(model, images, layer=nn.Linear(4, 3), head=model[2]), "uses once, got one that it used 0 times"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="images must be a floating-point tensor, got torch.int64"):
        caper(model, images.long())
    with pytest.raises(TypeError, match="layer must be a convolutional or linear layer, got Dropout"):
        caper(model, images, layer=model[1], head=model[2])
