"""The networks of dataset condensation: the recordings, other sizes of images, and errors."""

from __future__ import annotations

import pytest
import torch

from clpack.models import (
    EVALUATION_NETWORKS,
    EVALUATION_POOLS,
    AlexNet,
    CondensationResNet18,
    ConvNet,
    ResNet18,
    build_network,
)
from clpack.strategies import with_head


@torch.no_grad()
def fix_weights(network, k):
    """Fills the parameters as the recordings do."""
    for j, parameter in enumerate(network.parameters()):
        scale = 0.15 if parameter.dim() == 1 else 1.5 / (parameter.numel() / len(parameter)) ** 0.5
        values = scale * torch.sin(k * torch.arange(parameter.numel(), dtype=torch.float64) + j)
        parameter.copy_(values.float().view_as(parameter))
    for module in network.modules():
        if "Norm" in type(module).__name__:
            module.weight.add_(1.0)


@pytest.mark.parametrize("size", ["c3_32", "c1_28"])
@pytest.mark.parametrize("name", [name for name in EVALUATION_NETWORKS if name not in ("ResNet18BN",)])
def test_recorded_networks(golden, name, size):
    recording = golden("condensation/networks")
    channels, side = int(size[1]), int(size[3:])
    tag = f"{name}_{size}_k10"
    if tag not in recording.meta["nets"]:  # the same network by another name
        same = {"ConvNetD3": 1, "ConvNetW128": 1, "ConvNetAR": 1, "ConvNetIN": 1, "ConvNetAP": 1}
        assert name in (*same, "ConvNetW64")
        tag = f"ConvNet_{size}_k10"
    network = build_network(name, 10, input_size=side, in_channels=channels)
    if name == "ConvNetW64":
        assert network.linear.weight.shape == (10, 64 * 16)
        return
    meta = recording.meta["nets"][tag]
    assert sum(parameter.numel() for parameter in network.parameters()) == meta["params"]
    fix_weights(network, recording.meta["k"])
    network.train("BN" in name)
    images = recording[f"x_{size}"]
    with torch.no_grad():
        torch.testing.assert_close(network(images), recording[f"{tag}_logits"], rtol=1e-4, atol=1e-4)
        if "embed_dim" in meta:
            embedding = network.features(images)
            assert embedding.shape == (2, network.num_features) == (2, meta["embed_dim"])
            torch.testing.assert_close(embedding[:, :16], recording[f"{tag}_embed_head"], rtol=1e-4, atol=1e-4)
            sums = embedding.double().sum(1)
            torch.testing.assert_close(sums, recording[f"{tag}_embed_sum"], rtol=1e-4, atol=1e-2)


def test_resnet_with_batch_normalization_is_that_of_cifar():
    network, known = CondensationResNet18(norm="batch"), ResNet18()
    known.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images), known(images))


@pytest.mark.parametrize("name", ["MLP", "ConvNet", "LeNet", "AlexNet", "VGG11", "ResNet18", "ResNet18BN_AP"])
@pytest.mark.parametrize(("channels", "side"), [(3, 64), (1, 32)])
def test_other_sizes_and_heads(name, channels, side):
    network = build_network(name, 7, input_size=side, in_channels=channels).eval()
    images = torch.randn(2, channels, side, side)
    with torch.no_grad():
        assert torch.equal(network(images), network.linear(network.features(images)))
        assert network.features(images).shape == (2, network.num_features)
        assert with_head(network, "multi")(images, torch.zeros(2, dtype=torch.int64)).shape[0] == 2


def test_pools_name_networks():
    assert {name for names in EVALUATION_POOLS.values() for name in names} <= set(EVALUATION_NETWORKS)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvNet(0), "num_classes must be positive, got 0"),
        (lambda: ConvNet(depth=6), "input_size is too small for depth=6: no pixel is left of 32"),
        (lambda: ConvNet(norm="instancenorm"), "norm must be one of 'none', .* got 'instancenorm'"),
        (lambda: ConvNet(norm="group", width=6), "multiple of 4 for norm='group', got 6"),
        (lambda: AlexNet(input_size=4), "input_size must be at least 8 pixels, got 4"),
        (lambda: AlexNet(norm="layer"), "norm must be 'none', 'instance' or 'batch', got 'layer'"),
        (lambda: CondensationResNet18(norm="none"), "norm must be 'instance' or 'batch', got 'none'"),
        (lambda: build_network("ConvnetBN"), "unknown network 'ConvnetBN': did you mean 'ConvNetBN'"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
