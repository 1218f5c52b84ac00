"""PGD: the recording, a case worked by hand, and that nothing is changed."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from clpack.attacks import pgd


@pytest.fixture
def recorded(golden):
    recording = golden("epochloss/pgd")
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 8, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(8, track_running_stats=False),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
        bn2=nn.BatchNorm2d(12, track_running_stats=False),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(12, 5),
    )
    model = nn.Sequential(layers)
    model.load_state_dict(recording.below("w_"))
    return recording, model


@pytest.fixture
def network():
    """A network in a mixed mode, with running statistics, dropout, a frozen layer and left-over gradients."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3)
    )
    model[0].bias.requires_grad_(False)
    model[2].eval()
    model[5].weight.grad = torch.ones(3, 36)
    return model, torch.rand(7, 2, 5, 5), torch.randint(0, 3, (7,))


@pytest.mark.parametrize("mode", ["eval", "current"])
def test_recording(recorded, mode):
    recording, model = recorded
    images, targets = recording["x"], recording["y"]
    settings = {name: recording[key].item() for name, key in (("eps", "eps"), ("step_size", "alpha"))}
    settings |= {"steps": int(recording["steps"]), "mode": mode}
    attacked = pgd(model, images, targets, start_noise=recording["start_noise"], **settings)
    assert torch.equal(attacked, recording["x_adv"])
    assert torch.equal(pgd(model, images, targets, random_start=False, **settings), recording["x_adv_nostart"])
    assert torch.equal(pgd(model, images, targets, random_start=False, mode=mode), recording["x_adv_nostart"])
    torch.testing.assert_close(model(attacked), recording["logits_adv"])


def test_a_linear_model_by_hand():
    """The loss of class 0 rises with the second pixel and falls with the first: each moves by at most eps."""
    images = torch.tensor([[0.5, 0.5], [0.01, 0.99]])
    targets = torch.tensor([0, 0])
    attack = {"step_size": 0.02, "steps": 4, "random_start": False}
    expected = [[0.45, 0.55], [0.0, 1.0]]
    torch.testing.assert_close(pgd(nn.Identity(), images, targets, eps=0.05, **attack), torch.tensor(expected))
    assert torch.equal(pgd(nn.Identity(), images, targets, eps=0.05, steps=0, random_start=False), images)


def test_eps_zero_returns_the_images(network):
    model, images, targets = network
    images = images * 3 - 1
    images[0, 0, 0, 0] = -0.0
    result = pgd(model, images, targets, eps=0.0)
    assert torch.equal(result.view(torch.int32), images.view(torch.int32))
    assert result.data_ptr() != images.data_ptr()


def test_the_start_is_uniform_noise_from_the_generator():
    images, targets = torch.full((50, 4), 0.5), torch.zeros(50, dtype=torch.int64)

    def start(seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return pgd(nn.Identity(), images, targets, eps=0.1, steps=0, generator=generator) - images

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert torch.equal(start(None), start(None))
    assert -0.1 <= start(1).min() < -0.09
    assert 0.09 < start(1).max() <= 0.1


@pytest.mark.parametrize("mode", ["eval", "current"])
def test_everything_is_left_as_it_was(network, mode):
    model, images, targets = network
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    before, random_state = images.clone(), torch.get_rng_state()
    with torch.no_grad():
        attacked = pgd(model, images, targets, mode=mode)
        assert not torch.is_grad_enabled()
    assert not attacked.requires_grad
    assert (attacked - images).abs().max() <= 0.03 + 1e-6
    assert not torch.equal(attacked, images)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model[5].weight.grad, torch.ones(3, 36))
    assert model[1].weight.grad is None
    assert torch.equal(images, before)
    assert not images.requires_grad
    with pytest.raises(RuntimeError):
        pgd(model, images[:, :1], targets, mode=mode)
    assert [module.training for module in model.modules()] == modes


def test_the_mode_matters(network):
    """In evaluation mode the running statistics normalize, so an image is attacked as if it were alone."""
    model, images, targets = network
    attack = {"random_start": False}
    together, alone = (pgd(model, images[:k], targets[:k], **attack)[:1] for k in (7, 1))
    assert torch.equal(together, alone)
    assert not torch.equal(pgd(model, images, targets, mode="current", **attack)[:1], alone)


def test_attacks_raise_the_loss(network):
    model, images, targets = network
    model.eval()
    loss = [nn.functional.cross_entropy(model(x), targets) for x in (images, pgd(model, images, targets))]
    assert loss[1] > loss[0] + 0.01


def test_functions_and_task_labels():
    images, targets, tasks = torch.rand(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([1, -1, 1, -1])
    attack = {"random_start": False, "eps": 0.01}
    attacked = pgd(lambda x, t: x * t[:, None], images, targets, task_labels=tasks, **attack)
    assert torch.equal(attacked, pgd(lambda x: x * tasks[:, None], images, targets, **attack))
    assert torch.equal(attacked[::2], pgd(nn.Identity(), images[::2], targets[::2], **attack))
    assert not torch.equal(attacked, pgd(nn.Identity(), images, targets, **attack))


def test_bad_arguments(network):
    model, images, targets = network
    for options, message in (
        ({"targets": targets[:3]}, r"one label per image, shape \(7,\), got \(3,\)"),
        ({"eps": -0.1}, "eps must not be negative, got -0.1"),
        ({"step_size": -1}, "step_size must not be negative, got -1"),
        ({"steps": -1}, "steps must not be negative, got -1"),
        ({"start_noise": images[:2]}, r"start_noise must have the shape of images, \(7, 2, 5, 5\), got \(2, 2, 5, 5\)"),
        ({"mode": "train"}, "mode must be 'eval' or 'current', got 'train'"),
    ):
        with pytest.raises(ValueError, match=message):
            pgd(model, images, **{"targets": targets, **options})
    for options, message in (
        ({"eps": "0.03"}, "eps must be a number, got '0.03' of type str"),
        ({"step_size": None}, "step_size must be a number, got None of type NoneType"),
        ({"steps": 2.5}, "steps must be an integer, got 2.5 of type float"),
        ({"steps": True}, "steps must be an integer, got True of type bool"),
        ({"start_noise": [0.1]}, r"start_noise must be a tensor with the shape of images, \(7, 2, 5, 5\), got list"),
    ):
        with pytest.raises(TypeError, match=message):
            pgd(model, images, targets, **options)
    with pytest.raises(TypeError, match="images must be a floating-point tensor .* got torch.uint8"):
        pgd(model, images.byte(), targets)
    with pytest.raises(TypeError, match="targets must be an int64 tensor of class labels, got torch.float32"):
        pgd(model, images, targets.float())
