"""The modified ResNet-18 of GenImage: its size, its normalization, and torchvision's network with the same weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from clpack.models import GenImageResNet18


def test_published_size():
    model = GenImageResNet18()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(p.numel() for name, p in model.named_parameters() if not name.startswith("linear")) == 11_168_832
    assert sum(convolution.weight.numel() for convolution in convolutions) == 11_159_232
    assert len(convolutions) == 20
    assert all(convolution.bias is None for convolution in convolutions)
    assert model.linear.out_features == 100


def test_initialization_is_normal_by_fan_out():
    weight = GenImageResNet18().layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert weight.mean().abs().item() < 1e-4


def test_which_layers_have_running_statistics():
    normalizations = {
        name: module for name, module in GenImageResNet18().named_modules() if isinstance(module, nn.BatchNorm2d)
    }
    running = {name for name, module in normalizations.items() if module.track_running_stats}
    assert running == {"layer2.0.shortcut.1", "layer3.0.shortcut.1", "layer4.0.shortcut.1"}
    assert len(normalizations) == 20
    assert all(module.affine for module in normalizations.values())


@pytest.mark.parametrize("training", [True, False])
def test_same_as_torchvision_with_a_small_stem(training):
    model = GenImageResNet18(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    reference = torchvision.models.resnet18(num_classes=7)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    for name, module in reference.named_modules():
        if isinstance(module, nn.BatchNorm2d) and "downsample" not in name:
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    names = {"shortcut": "downsample", "linear": "fc"}
    state = {}
    for name, value in model.state_dict().items():
        state[".".join(names.get(part, part) for part in name.split("."))] = value
    reference.load_state_dict(state)
    model.train(training)
    reference.train(training)
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(model(images), reference(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.layer2[0].shortcut[1].running_mean, reference.layer2[0].downsample[1].running_mean)


@pytest.mark.parametrize("size", [17, 28, 32, 64])
def test_every_image_size(size):
    model = GenImageResNet18(7, input_size=size, in_channels=1)
    images = torch.rand(1, 1, size, size)
    assert model.features(images).shape == (1, model.num_features) == (1, 512)
    assert model(images).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes and in_channels must be positive, got 0 and 3"),
        ({"in_channels": 0}, "must be positive, got 100 and 0"),
        ({"input_size": 16}, "input_size must be at least 17 pixels .* got 16"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GenImageResNet18(**options)
