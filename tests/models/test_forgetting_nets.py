"""The networks of the example-forgetting experiments: sizes, wiring, heads and errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clpack.models import MNISTNet, ResNet18, WideResNet
from clpack.strategies import with_head


def _num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("build", "num_parameters"),
    [
        (MNISTNet, 21_840),
        (lambda: MNISTNet(dropout=False), 21_840),
        (ResNet18, 11_173_962),
        (lambda: ResNet18(100), 11_220_132),
        (WideResNet, 36_479_194),
        (lambda: WideResNet(100), 36_536_884),
    ],
)
def test_published_sizes(build, num_parameters):
    state = torch.get_rng_state()
    with torch.device("meta"):
        assert _num_parameters(build()) == num_parameters
    assert torch.equal(torch.get_rng_state(), state)  # settings are checked on this device


@pytest.mark.parametrize(
    ("network", "size", "channels", "num_features"),
    [
        (MNISTNet, 16, 1, 50),
        (MNISTNet, 28, 1, 50),
        (MNISTNet, 33, 3, 50),
        (ResNet18, 25, 1, 512),
        (ResNet18, 32, 3, 512),
        (ResNet18, 64, 3, 2048),
        (lambda *args, **options: WideResNet(*args, depth=10, width=1, **options), 29, 1, 64),
        (lambda *args, **options: WideResNet(*args, depth=10, width=2, **options), 64, 3, 512),
    ],
)
def test_shapes_and_heads(network, size, channels, num_features):
    images = torch.randn(2, channels, size, size)
    model = network(7, input_size=size, in_channels=channels).eval()
    features = model.features(images)
    assert features.shape == (2, model.num_features) == (2, num_features)
    assert torch.equal(model(images), model.linear(features))
    assert model(images).shape == (2, 7)
    assert with_head(model, "multi")(images, torch.zeros(2, dtype=torch.int64)).shape[0] == 2


def test_mnist_net_by_hand():
    model = MNISTNet().eval()
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        out = nn.functional.conv2d(images, model.conv1.weight, model.conv1.bias)
        out = out.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).clamp(min=0)
        out = nn.functional.conv2d(out, model.conv2.weight, model.conv2.bias)
        out = out.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).clamp(min=0)
        out = (out.reshape(3, 320) @ model.fc1.weight.T + model.fc1.bias).clamp(min=0)
        torch.testing.assert_close(model(images), out @ model.linear.weight.T + model.linear.bias)


def test_mnist_net_dropout():
    images = torch.randn(4, 1, 28, 28)
    with_dropout, without = MNISTNet(), MNISTNet(dropout=False)
    without.load_state_dict(with_dropout.state_dict())
    assert not torch.equal(with_dropout(images), with_dropout(images))
    state = torch.get_rng_state()
    assert torch.equal(without(images), with_dropout.eval()(images))
    assert torch.equal(torch.get_rng_state(), state)


def test_shortcuts_and_biases():
    model = ResNet18()
    assert [len(stage[i].shortcut) for stage in (model.layer1, model.layer2) for i in (0, 1)] == [0, 0, 2, 0]
    assert {m.bias for m in model.modules() if isinstance(m, nn.Conv2d)} == {None}
    block = model.layer2[0]
    nn.init.zeros_(block.bn2.weight)
    images = torch.randn(2, 64, 8, 8)
    torch.testing.assert_close(block(images), block.shortcut(images).relu())


def test_wide_block_shortcut_takes_activated_input_only_where_the_width_changes():
    model = WideResNet(depth=16, width=2, dropout=0.0)
    changing, same = model.layer2
    images = torch.randn(4, 32, 8, 8)
    for block in (changing, same):
        nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(changing(images), changing.shortcut(changing.bn1(images).relu()))
    assert same.shortcut is None
    wide = torch.randn(4, 64, 8, 8)
    assert torch.equal(same(wide), wide)


def test_wide_resnet_initialization_and_dropout():
    model = WideResNet(depth=10, width=4)
    std = float(model.layer3[0].conv2.weight.detach().std())
    assert std == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert float(model.layer2[0].shortcut.weight.detach().std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert model.linear.bias.count_nonzero() == 0
    assert {m.bias for m in model.modules() if isinstance(m, nn.Conv2d)} == {None}
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.3}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MNISTNet(0), "must be positive, got 0 and 1"),
        (lambda: MNISTNet(input_size=8), "input_size must be at least 16 pixels .* got 8"),
        (lambda: ResNet18(in_channels=0), "must be positive, got 10 and 0"),
        (lambda: ResNet18(input_size=24), "input_size must be at least 25 pixels .* got 24"),
        (lambda: WideResNet(width=0), "must be positive, got 10, 3 and 0"),
        (lambda: WideResNet(input_size=28), "input_size must be at least 29 pixels .* got 28"),
        (lambda: WideResNet(depth=18), r"6n \+ 4, got 18"),
        (lambda: WideResNet(depth=4), r"6n \+ 4, got 4"),
        (lambda: WideResNet(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
