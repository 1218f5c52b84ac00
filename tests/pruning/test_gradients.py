"""GraNd and Gradient Loss: recorded values, one sample at a time, and that nothing is changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clpack.pruning import el2n, gradient_loss, grand


@pytest.fixture
def recorded(golden):
    def load(seed):
        recording = golden(f"pruning/gradscores_s{seed}")
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5))
        for layer, number in ((model[1], 1), (model[3], 2)):
            layer.weight.data, layer.bias.data = recording[f"in_W{number}"], recording[f"in_b{number}"]
        return recording, model, recording["in_X"], recording["in_y"]

    return load


@pytest.fixture
def convnet():
    """A network in a mixed mode, with buffers, dropout, a frozen layer and left-over gradients."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3, bias=False)
    )
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    model[0].bias.requires_grad_(False)
    model[1].eval()
    model[5].weight.grad = torch.ones(3, 36)
    return model, torch.randn(7, 2, 5, 5), torch.randint(0, 3, (7,))


@pytest.mark.parametrize("seed", [11, 12])
def test_recordings(recorded, seed):
    recording, model, x, y = recorded(seed)
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(grand(model, x, y, batch_size=10), recording["out_grand_full_DEFINITION"], **close)
    last = grand(model, x, y, head=model[3], batch_size=10)
    np.testing.assert_allclose(last, recording["out_grand_last_layer_DEFINITION"], **close)
    scores = gradient_loss(model, x, y, batch_size=10)
    np.testing.assert_allclose(scores, recording["out_gradient_loss_per_sample"], **close)
    original = recording["out_gradient_loss_original_batches10"] * recording["in_batch_size_of_each"]
    np.testing.assert_allclose(scores, original, **close)
    probabilities = model(x).softmax(dim=1)
    np.testing.assert_allclose(el2n(probabilities, y), recording["out_el2n_DEFINITION"], **close)


def test_one_sample_at_a_time(convnet):
    model, images, targets = convnet
    reference = copy.deepcopy(model).eval()
    trained = [param for param in reference.parameters() if param.requires_grad]
    full, last, pixels = [], [], []
    for image, target in zip(images, targets, strict=True):
        x = image[None].requires_grad_()
        loss = F.cross_entropy(reference(x), target[None])
        *grads, to_pixels = torch.autograd.grad(loss, [*trained, x])
        full.append(sum(grad.square().sum() for grad in grads).sqrt().item())
        last.append(grads[-1].norm().item())
        pixels.append(to_pixels.norm().item())
    np.testing.assert_allclose(grand(model, images, targets, batch_size=3), full, rtol=1e-5)
    np.testing.assert_allclose(grand(model, images, targets, head=model[5]), last, rtol=1e-5)
    np.testing.assert_allclose(gradient_loss(model, images, targets, batch_size=3), pixels, rtol=1e-5)
    assert grand(model, images, targets).dtype == np.float64


@pytest.mark.parametrize(
    "score",
    [grand, gradient_loss, lambda model, x, y: grand(model, x, y, head=model[5])],
    ids=["full", "pixels", "head"],
)
def test_everything_is_left_as_it_was(convnet, score):
    model, images, targets = convnet
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    flags, before = [param.requires_grad for param in model.parameters()], images.clone()
    random_state = torch.get_rng_state()
    with torch.no_grad():
        score(model, images, targets)
    assert [module.training for module in model.modules()] == modes
    assert [param.requires_grad for param in model.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model[5].weight.grad, torch.ones(3, 36))
    assert model[0].weight.grad is None
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert not model[5]._forward_hooks


def test_modes_return_after_an_error(convnet):
    model, images, targets = convnet
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):
        gradient_loss(model, images[:, :1], targets)
    with pytest.raises(RuntimeError):
        grand(model, images[:, :1], targets, head=model[5])
    assert [module.training for module in model.modules()] == modes
    assert not model[5]._forward_hooks


def test_bad_arguments(convnet):
    model, images, targets = convnet
    batch_statistics = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(50, 3))
    frozen = copy.deepcopy(model).requires_grad_(False)
    middle = nn.Sequential(nn.Flatten(), nn.Linear(50, 4), nn.Linear(4, 3))
    for call, message in (
        (lambda: grand(model, images, targets[:3]), r"one label per image, shape \(7,\), got \(3,\)"),
        (lambda: grand(model, images, targets, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: gradient_loss(model, images[:0], targets[:0]), "images is empty"),
        (
            lambda: gradient_loss(batch_statistics, images, targets),
            "layer '0' normalizes by the statistics of the batch",
        ),
        (lambda: grand(frozen, images, targets), "no parameter with requires_grad=True"),
        (lambda: grand(model, images, targets, head=nn.Linear(36, 3)), "head must be a layer of the model"),
        (lambda: grand(middle, images, targets, head=middle[1]), "head must be the last layer"),
        (lambda: gradient_loss(nn.Conv2d(2, 3, 1), images, targets), r"logits of shape \(B, C\), got shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="images must be a floating-point tensor, got torch.uint8"):
        gradient_loss(model, images.byte(), targets)
    with pytest.raises(TypeError, match="images must be a floating-point tensor, got list"):
        gradient_loss(model, [1.0], targets)
    with pytest.raises(TypeError, match="targets must be an int64 tensor of class labels, got torch.float32"):
        grand(model, images, targets.float())
