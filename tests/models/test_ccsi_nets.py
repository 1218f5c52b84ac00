"""Continual normalization, cosine heads and the networks of CCSI: recordings, torch's layers, and errors."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clpack.models import (
    CCSIResNet,
    ContinualNorm2d,
    CosineLinear,
    ResNet18,
    SplitCosineLinear,
    imprinted_weights,
    replace_batch_norm,
)
from clpack.models.normalization import channel_moments
from clpack.synthesis import BatchMoments

EXACT = {"rtol": 1e-9, "atol": 1e-12}
ROUNDED = {"rtol": 1e-5, "atol": 1e-5}  # of recordings that are rounded to float32


def double(recording):
    return {name: array.double() if array.is_floating_point() else array for name, array in recording.items()}


def continual_norm(recording, name):
    layer = ContinualNorm2d(
        16,
        recording[f"{name}_G"].item(),
        eps=recording[f"{name}_eps"].item(),
        momentum=recording[f"{name}_momentum"].item(),
    ).double()
    state = {"weight": "weight", "bias": "bias", "running_mean": "rm0", "running_var": "rv0"}
    layer.load_state_dict({ours: recording[f"{name}_{theirs}"] for ours, theirs in state.items()})
    return layer


def check_batch(layer, recording, name, batch):
    source = "cn" if batch.startswith("train") else name  # both layers got the same training batches
    x = recording[f"{source}_{batch}_x"].clone().requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad(y, [x, layer.weight, layer.bias], recording[f"{source}_{batch}_gout"])
    for key, value in zip(("y", "gx", "gw", "gb"), (y, *gradients), strict=True):
        expected = recording[f"{name}_{batch}_{key}"]
        torch.testing.assert_close(value[: len(expected)], expected, **ROUNDED)
    torch.testing.assert_close(layer.running_mean, recording[f"{name}_{batch}_rm"], **ROUNDED)
    torch.testing.assert_close(layer.running_var, recording[f"{name}_{batch}_rv"], **ROUNDED)


def test_recorded_layer(golden):
    recording = double(golden("ccsi/cn_layer"))
    layer = continual_norm(recording, "cn")
    check_batch(layer, recording, "cn", "train1")
    check_batch(layer, recording, "cn", "train2")


def test_recorded_layer_of_the_released_code(golden):
    recording = double(golden("ccsi/cn_layer"))
    layer = continual_norm(recording, "ccsi")
    kept = BatchMoments(nn.Sequential(layer))
    for batch in ("train1", "train2"):
        check_batch(layer, recording, "ccsi", batch)
        for table, moment in ((kept.statistics.mean, "mean"), (kept.statistics.var, "var")):
            torch.testing.assert_close(table["0"], recording[f"ccsi_{batch}_total_{moment}"], **ROUNDED)
            torch.testing.assert_close(table["0"], recording[f"ccsi_{batch}_group_running_{moment}"], **ROUNDED)
    layer(recording["ccsi_othersize_x"])
    torch.testing.assert_close(kept.statistics.mean["0"], recording["ccsi_othersize_group_running_mean"], **ROUNDED)
    torch.testing.assert_close(layer.running_mean, recording["ccsi_othersize_rm"], **ROUNDED)
    torch.testing.assert_close(layer.running_var, recording["ccsi_othersize_rv"], **ROUNDED)
    layer.eval()
    check_batch(layer, recording, "ccsi", "eval")
    kept.remove()
    layer.train()
    layer(recording["ccsi_eval_x"])
    torch.testing.assert_close(kept.statistics.mean["0"], recording["ccsi_othersize_group_running_mean"], **ROUNDED)


@pytest.mark.parametrize("training", [True, False])
def test_same_as_group_then_batch_normalization_in_float32(training):
    layer, batch_norm = ContinualNorm2d(8, 2), nn.BatchNorm2d(8)
    for module in (layer, batch_norm):
        nn.init.uniform_(module.weight, generator=torch.Generator().manual_seed(1))
        module.running_mean.fill_(0.1)
        module.train(training)
    x = (3.0 + torch.randn(5, 8, 6, 7)).requires_grad_()
    ours, theirs = layer(x), batch_norm(F.group_norm(x, 2))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(out, x, upstream)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.running_mean, batch_norm.running_mean)
    torch.testing.assert_close(layer.running_var, batch_norm.running_var)


def test_channel_moments_and_their_gradients():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    centered, mean, var = channel_moments(x)
    torch.testing.assert_close(mean, x.mean((2, 3)))
    torch.testing.assert_close(var, x.var((2, 3), correction=0))
    torch.testing.assert_close(centered, x - mean[:, :, None, None])
    assert torch.autograd.gradcheck(channel_moments, x)
    assert torch.autograd.gradgradcheck(channel_moments, x)


def test_gradients_of_single_images_by_vmap():
    layer, images = ContinualNorm2d(4).eval(), torch.randn(3, 4, 5, 5)
    by_vmap = torch.vmap(torch.func.grad(lambda image: layer(image[None]).square().sum()))(images)
    x = images.clone().requires_grad_()
    torch.testing.assert_close(by_vmap, torch.autograd.grad(layer(x).square().sum(), x)[0])


def test_computes_in_float32_under_autocast():
    layer, x = ContinualNorm2d(8), torch.randn(4, 8, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).dtype == torch.float32


def test_replaced_layers_keep_their_parameters():
    model = ResNet18(3)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert replace_batch_norm(model, 8, momentum=1.0) is model
    for name, old in norms.items():
        new = model.get_submodule(name)
        assert isinstance(new, ContinualNorm2d)
        assert (new.num_groups, new.momentum, new.eps) == (8, 1.0, old.eps)
        assert new.weight is old.weight
        assert new.bias is old.bias
    assert isinstance(replace_batch_norm(nn.BatchNorm2d(8)), ContinualNorm2d)


def test_recorded_heads(golden):
    recording = golden("ccsi/cosine_linear")
    head = CosineLinear(12, 3).double()
    head.load_state_dict({"weight": recording["w"], "sigma": recording["sigma"]})
    x = recording["x"].clone().requires_grad_()
    y = head(x)
    torch.testing.assert_close(y, recording["y"], **EXACT)
    for value, name in zip(
        torch.autograd.grad(y, [x, head.weight, head.sigma], recording["gout"]), ("gx", "gw", "gsigma"), strict=True
    ):
        torch.testing.assert_close(value, recording[name], **EXACT)

    split = head.grown(2, freeze_old=False)
    with torch.no_grad():
        split.fc2.weight.copy_(recording["split_w2"])
    y = split(x)
    torch.testing.assert_close(y, recording["split_y"], **EXACT)
    scores = torch.cat((recording["split_scores_old"], recording["split_scores_new"]), dim=1)
    torch.testing.assert_close(split.scores(x), scores, **EXACT)
    inputs = [x, split.fc1.weight, split.fc2.weight, split.sigma]
    for value, name in zip(
        torch.autograd.grad(y, inputs, recording["split_gout"]), ("gx", "gw1", "gw2", "gsigma"), strict=True
    ):
        torch.testing.assert_close(value, recording[f"split_{name}"], **EXACT)

    again = split.grown(2)
    with torch.no_grad():
        again.fc2.weight.copy_(recording["split2_w2"])
    torch.testing.assert_close(again(x), recording["split2_y"], **EXACT)
    assert not again.fc1.weight.requires_grad
    assert again.fc2.weight.requires_grad


def test_growing_leaves_the_head_and_its_scores_alone():
    head = CosineLinear(6, 3)
    nn.init.constant_(head.sigma, 4.0)
    before = copy.deepcopy(head.state_dict())
    grown = head.grown(2, generator=torch.Generator().manual_seed(5))
    features = torch.randn(4, 6)
    torch.testing.assert_close(grown(features)[:, :3], head(features))
    assert grown.out_features == 5
    assert torch.equal(grown.fc2.weight, head.grown(2, generator=torch.Generator().manual_seed(5)).fc2.weight)
    with torch.no_grad():
        grown.sigma.add_(1.0)
        grown.fc1.weight.add_(1.0)
    for name, value in head.state_dict().items():
        assert torch.equal(value, before[name])


def test_recorded_imprinting(golden):
    recording = golden("ccsi/misc_formulas")
    features = torch.cat((recording["imprint_feat_0"], recording["imprint_feat_1"]))
    targets = torch.tensor([4] * len(recording["imprint_feat_0"]) + [5] * len(recording["imprint_feat_1"]))
    order = torch.randperm(len(targets))
    weights = imprinted_weights(features[order], targets[order], [4, 5], recording["imprint_old_w"])
    torch.testing.assert_close(weights.float(), recording["imprint_new_w"])


def test_sizes_of_the_networks():
    small = CCSIResNet()
    assert sum(parameter.numel() for parameter in small.parameters()) == 77_905
    assert small.num_features == CCSIResNet(input_size=28).num_features == 256
    assert sum(isinstance(module, ContinualNorm2d) for module in small.modules()) == 9
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, 2)
    assert (small.features(torch.rand(2, 3, 32, 32)) >= 0).all()
    large = CCSIResNet(5, in_channels=1, input_size=224, size="large").eval()
    assert large.num_features == 128
    with torch.no_grad():
        features = large.features(torch.rand(1, 1, 224, 224))
        assert features.shape == (1, 128)
        assert (features < 0).any()  # no ReLU after the last block
        assert large(torch.rand(1, 1, 224, 224)).shape == (1, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ContinualNorm2d(10), "num_groups must divide num_features=10, got 4"),
        (lambda: ContinualNorm2d(8, momentum=0.0), "momentum must be in (0, 1], got 0.0"),
        (lambda: ContinualNorm2d(8)(torch.zeros(2, 4, 3, 3)), "expected maps of shape (B, 8, H, W), got (2, 4, 3, 3)"),
        (lambda: ContinualNorm2d(8)(torch.zeros(1, 8, 1, 1)), "more than one value per channel"),
        (lambda: replace_batch_norm(nn.Linear(3, 3)), "Linear has no BatchNorm2d to replace"),
        (lambda: replace_batch_norm(nn.BatchNorm2d(8, affine=False)), "has no weight and bias to take over"),
        (lambda: CosineLinear(4, 0), "must be positive in number, got 4 and 0"),
        (lambda: CosineLinear(4, 2).grown(0), "must be positive in number, got 4 and 0"),
        (
            lambda: imprinted_weights(torch.ones(2, 4), torch.tensor([2, 2]), [2, 3], torch.ones(2, 4)),
            "got none of class 3",
        ),
        (
            lambda: imprinted_weights(torch.ones(2, 4), torch.tensor([2, 7]), [2], torch.ones(2, 4)),
            "must be among the classes [2], got 7",
        ),
        (
            lambda: imprinted_weights(torch.ones(2, 4), torch.tensor([2, 2]), [2], torch.ones(2, 5)),
            "got (2, 4), (2,) and (2, 5)",
        ),
        (lambda: CCSIResNet(input_size=12), "input_size must be at least 13 pixels, got 12"),
        (lambda: CCSIResNet(size="large"), "input_size must be at least 193 pixels, got 32"),
        (lambda: CCSIResNet(norm="group"), "norm must be 'continual' or 'batch', got 'group'"),
        (lambda: CCSIResNet(0), "num_classes must be positive, got 0"),
        (lambda: SplitCosineLinear(4, 0, 2), "must be positive in number, got 4 and 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
