"""Class means, statistics of classes and the loss on statistics: recordings, plain computations, and errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clpack.models import CCSIResNet, ContinualNorm2d
from clpack.synthesis import GroupStatistics, StatisticsLoss, class_means, class_statistics


def test_recorded_loss_in_the_released_form(recorded):
    recording = recorded("feature_stats")
    model, x, y = recording.network("state."), recording["x"].requires_grad_(), recording["y"]
    loss = StatisticsLoss(model, recording.statistics(), form="batch")
    logits, terms = loss.terms(x, y)
    recording.close(logits, "logits")
    recording.close(terms, "r_layers")
    recording.close(F.cross_entropy(logits, y), "ce")
    _, total = loss(x, y)
    recording.close(total, "r_total")
    recording.close(torch.autograd.grad(total, x)[0], "g_r_total")
    assert [recording.our_name(name) for name in recording.meta["layer_names"]] == list(loss.statistics.mean)


def test_recorded_gradient_of_the_group_part(recorded):
    recording = recorded("feature_stats")
    model, x = recording.network("state."), recording["x"].requires_grad_()
    with_gradient = StatisticsLoss(model, recording.statistics())  # rows by class, here one for each image
    without = StatisticsLoss(model, recording.statistics(), form="batch")
    rows = torch.arange(len(x))
    gradients = []
    for loss in (with_gradient, without):
        _, total = loss(x, rows)
        recording.close(total, "r_total")
        gradients.append(torch.autograd.grad(total, x)[0])
    recording.close(gradients[0] - gradients[1], "g_gn_differentiable")


def test_recorded_loss_of_batch_normalization(recorded):
    recording = recorded("feature_stats")
    model, x = recording.network("state.", "bn_state.", norm="batch"), recording["x"].requires_grad_()
    loss = StatisticsLoss(model)
    logits, terms = loss.terms(x, recording["y"])
    recording.close(logits, "bn_logits")
    recording.close(terms, "bn_r_layers")
    _, total = loss(x, recording["y"])
    recording.close(total, "bn_r_total")
    recording.close(torch.autograd.grad(total, x)[0], "bn_g_r_total")


def plain_loss(model, statistics, images, targets):
    """The loss as the formula has it: moments by torch's variances, of what group normalization gives."""
    terms = []

    def hook(name):
        def measure(layer, inputs):
            x = inputs[0]
            z = F.group_norm(x, layer.num_groups)
            groups = x.reshape(len(x), layer.num_groups, -1)
            terms.append(
                (layer.running_var - z.var((0, 2, 3), correction=0)).norm()
                + (layer.running_mean - z.mean((0, 2, 3))).norm()
                + (statistics.var[name][targets] - groups.var(2, correction=0)).norm()
                + (statistics.mean[name][targets] - groups.mean(2)).norm()
            )

        return measure

    handles = [
        layer.register_forward_pre_hook(hook(name))
        for name, layer in model.named_modules()
        if isinstance(layer, ContinualNorm2d)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return 10.0 * terms[0] + sum(terms[1:])


def test_same_as_the_plain_computation():
    # in double precision, as in single precision rounding decides about ReLUs of inputs close to zero
    model = CCSIResNet(3).double().eval()
    data = [(torch.rand(12, 3, 32, 32).double(), torch.arange(12) % 3)]
    statistics = class_statistics(model, data, [0, 1, 2])
    images, targets = torch.rand(8, 3, 32, 32).double().requires_grad_(), torch.arange(8) % 3
    _, ours = StatisticsLoss(model, statistics)(images, targets)
    plain = plain_loss(model, statistics, images, targets)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=0.0)
    gradients = [torch.autograd.grad(value, images)[0] for value in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_class_means_by_hand_and_in_batches():
    images = torch.tensor([0.0, 0.25, 0.75, 1.0, 0.5, 0.5]).view(6, 1, 1, 1).expand(6, 1, 2, 2)
    targets = torch.tensor([7, 7, 2, 2, 2, 9])
    means = class_means([(images[:3], targets[:3]), (images[3:], targets[3:])], [2, 7])
    assert means.shape == (2, 1, 2, 2)
    assert means[:, 0, 0, 0].tolist() == [0.75, 0.125]
    rounded = class_means([(images, targets)], [2, 7], eight_bit=True)
    assert rounded[:, 0, 0, 0].tolist() == pytest.approx([191 / 255, 32 / 255])


def test_class_statistics_are_means_over_images_in_evaluation_mode():
    model = CCSIResNet(4, in_channels=1, input_size=28)
    images, targets = torch.rand(9, 1, 28, 28), torch.tensor([0, 1, 3, 0, 1, 3, 0, 1, 2])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    statistics = class_statistics(model, [(images[:5], targets[:5]), (images[5:], targets[5:])], [0, 1])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    stem = model.conv1(images).detach().unflatten(1, (4, 4))
    for row, label in enumerate((0, 1)):
        own = stem[targets == label]
        torch.testing.assert_close(statistics.mean["bn1"][row], own.mean((0, 2, 3, 4)))
        torch.testing.assert_close(statistics.var["bn1"][row], own.var((2, 3, 4), correction=0).mean(0))
    more = statistics.extended(class_statistics(model, [(images, targets)], [3]))
    assert len(more) == 3
    assert torch.equal(more.var["bn1"][:2], statistics.var["bn1"])


def test_loss_vanishes_for_the_images_that_the_statistics_are_of():
    model, images = CCSIResNet(2, momentum=1.0), torch.rand(1, 3, 32, 32).repeat(2, 1, 1, 1)
    model(images)
    model.eval()
    statistics = class_statistics(model, [(images, torch.zeros(2).long())], [0])
    _, loss = StatisticsLoss(model, statistics)(images, torch.zeros(2).long())
    count = 2 * 16 * 16  # running variances are unbiased, by this much
    bias = sum(layer.running_var.norm() for layer in model.modules() if isinstance(layer, ContinualNorm2d)) / count
    assert loss.item() < 11 * bias.item() + 1e-3


def images_of(counts):
    targets = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    return [(torch.rand(len(targets), 3, 32, 32), targets)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_means(images_of([2, 1]), [0, 1]), "at least two samples, .*, got 1 of class 1"),
        (lambda: class_statistics(CCSIResNet(), images_of([0, 2]), [0]), "got 0 of class 0"),
        (lambda: class_means([(torch.rand(4, 8), torch.zeros(4))], [0]), r"images must be .* of shape \(4, 8\)"),
        (lambda: class_means([(torch.rand(4, 1, 2, 2), torch.zeros(3))], [0]), r"shape \(4,\), got \(3,\)"),
        (lambda: class_means(images_of([2]), []), "classes is empty"),
        (lambda: class_statistics(nn.Linear(2, 2), images_of([2]), [0]), "Linear has no layer of continual"),
        (lambda: StatisticsLoss(nn.Linear(2, 2)), "Linear has no normalization layer with running statistics"),
        (lambda: StatisticsLoss(CCSIResNet()), "of the 9 layers of continual normalization of the model, got 0"),
        (lambda: StatisticsLoss(CCSIResNet(), form="row"), "form must be 'class' or 'batch', got 'row'"),
        (
            lambda: GroupStatistics({"a": torch.ones(1, 4)}, {}).extended(GroupStatistics({}, {})),
            r"of the same layers, got \['a'\] and \[\]",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_released_form_needs_the_size_of_the_training_batch():
    model = CCSIResNet(2)
    loss = StatisticsLoss(model, class_statistics(model, images_of([2, 2]), [0, 1]), form="batch")
    with pytest.raises(ValueError, match="as many images as the training batch had, 2, got 3"):
        loss(torch.rand(3, 3, 32, 32), torch.zeros(3).long())
