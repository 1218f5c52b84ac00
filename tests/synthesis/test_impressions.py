"""Synthesis: the recorded iterations and schedules, batches, selection, traces left behind, and errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clpack.models import CCSIResNet
from clpack.synthesis import (
    IMAGENET_RANGE,
    ImpressionBatch,
    StatisticsLoss,
    SynthesisOptions,
    class_means,
    class_statistics,
    impression_targets,
    l2_prior,
    synthesis_learning_rate,
    synthesize_impressions,
    total_variation,
)

SHORT = SynthesisOptions(iterations=6, check_every=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def trained():
    """A network of three classes, what is kept of its data, and the data."""
    torch.manual_seed(0)
    images = torch.rand(30, 1, 28, 28) * torch.linspace(0.2, 1.0, 3)[torch.arange(30) % 3, None, None, None]
    data = [(images, torch.arange(30) % 3)]
    model = CCSIResNet(3, in_channels=1, input_size=28)
    model(images)
    return model, class_means(data, [0, 1, 2]), class_statistics(model, data, [0, 1, 2])


def test_recorded_iterations(recorded):
    recording = recorded("synthesis_trajectory")
    model, targets, weights = recording.network("state."), recording["targets"], recording.meta
    means = recording["mean_png"].permute(0, 3, 1, 2).double() / 255
    start = means[targets] + recording["noise"] / 10
    statistics_loss = StatisticsLoss(
        model, recording.statistics(), form="batch", first_layer_weight=weights["first_bn_multiplier"]
    )

    def objective(images):
        logits, loss = statistics_loss(images, targets)
        return (
            weights["main_loss_multiplier"] * F.cross_entropy(logits, targets)
            + weights["r_feature"] * loss
            + weights["tv_l2"] * total_variation(images)
            + weights["l2"] * l2_prior(images)
        )

    batch = ImpressionBatch(objective, start, SynthesisOptions.preset("released"))
    losses, images = [], []
    steps = zip(recording["shifts"].tolist(), (recording["flip_draw"] > 0.5).tolist(), strict=True)
    for iteration, (shift, flip) in enumerate(steps):
        losses.append(batch.step(tuple(shift), flip=flip))
        assert batch._adam.param_groups[0]["lr"] == pytest.approx(recording["lr"][iteration].item(), rel=1e-6)
        if iteration in (0, 11):
            recording.close(batch.images.grad, "grad_last" if iteration else "grad_first")
        if iteration == losses.index(min(losses)):
            lowest = batch.images.detach().clone()
        if iteration in recording["image_steps"].tolist():
            images.append(batch.images.detach()[:1].clone())
    recording.close(torch.stack(losses), "loss")
    recording.close(torch.stack(images), "images")
    assert torch.equal(batch.best, lowest)  # after the step of the lowest loss
    assert batch.best_loss == min(losses)


@pytest.mark.parametrize(("name", "tail"), [("ccsi", 0.2), ("deepinversion", 0.5)])
def test_recorded_learning_rates(golden, name, tail):
    recording = golden("ccsi/lr_schedule")
    highest, iterations, warmup = (recording[key].item() for key in ("base", "iterations", "warmup"))
    stride = -(-iterations // len(recording[name]))
    ours = [
        synthesis_learning_rate(iteration, iterations, highest=highest, warmup=warmup, tail=tail)
        for iteration in range(0, iterations, stride)
    ]
    torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), recording[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ccsi", {"pixel_range": (IMAGENET_RANGE[0][0], IMAGENET_RANGE[1][0]), "clip_channels": 1}),
        ("di", {"pixel_range": IMAGENET_RANGE}),
    ],
)
def test_recorded_clipping(golden, name, changes):
    recording = golden("ccsi/image_priors")
    options = SynthesisOptions(learning_rate=1e-30, **changes)  # the step itself changes nothing
    batch = ImpressionBatch(lambda images: images.sum(), recording["clip_in"], options)
    batch.step()
    expected = recording[f"clip_{name}"]
    torch.testing.assert_close(batch.images.detach()[: len(expected)], expected, rtol=1e-9, atol=1e-12)


def test_released_preset():
    options = SynthesisOptions.preset("released", tv_l2=0.001)
    assert (options.iterations, options.warmup, options.jitter, options.tv_l2) == (5000, 100, 30, 0.001)
    assert (options.statistics_form, options.selection, options.clip_channels) == ("batch", "shifted", 1)
    assert SynthesisOptions.preset() == SynthesisOptions()


def test_batches_are_those_of_separate_calls(trained):
    model, means, statistics = trained
    targets = impression_targets(7, 3)
    options = SynthesisOptions.preset(iterations=6, batch_size=4, check_every=2, patience=2)
    whole = synthesize_impressions(model, means, targets, statistics=statistics, options=options, generator=generator())
    shared = generator()
    parts = [
        synthesize_impressions(model, means, part, statistics=statistics, options=options, generator=shared)
        for part in targets.split(4)
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert whole.shape == (7, 1, 28, 28)
    assert 0.0 <= whole.min() < whole.max() <= 1.0


def test_nothing_is_left_behind(trained):
    model, means, statistics = trained
    model.train()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    synthesize_impressions(
        model, means, impression_targets(3, 3), statistics=statistics, options=SHORT, generator=generator()
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_selection_is_by_the_loss_without_shift():
    # the loss is the distance of the first pixel to 0.5; a shift moves another pixel there
    options = SynthesisOptions(iterations=50, learning_rate=0.1, check_every=1, warmup=0)
    start = torch.zeros(1, 1, 4, 4)
    batch = ImpressionBatch(lambda images: (images[..., 0, 0] - 0.5).abs().sum(), start, options)
    losses = []
    for _ in range(50):
        losses.append(batch.check().item())
        batch.step((1, 0))
    assert losses == [0.5] * 50  # shifted by a row, another pixel learns
    assert torch.equal(batch.best, start)
    for _ in range(3):
        batch.step()
    assert batch.check() < 0.5
    assert torch.equal(batch.best, batch.images)  # the images that were looked at, not those after a further step


def test_released_form_runs_in_whole_batches(trained):
    model, means, statistics = trained
    options = SynthesisOptions.preset("released", iterations=3, batch_size=3)
    targets = impression_targets(6, 3)
    images = synthesize_impressions(
        model, means, targets, statistics=statistics, options=options, generator=generator()
    )
    assert images.shape == (6, 1, 28, 28)
    assert images.min() < 0.0  # the range of ImageNet


def test_early_stopping_takes_fewer_steps_and_the_same_draws(trained, monkeypatch):
    model, means, statistics = trained
    taken = []
    step = ImpressionBatch.step
    monkeypatch.setattr(ImpressionBatch, "step", lambda self, *args, **kw: taken.append(1) or step(self, *args, **kw))
    monkeypatch.setattr(ImpressionBatch, "check", lambda self: torch.ones(()))  # never gets better
    after = []
    for patience in (None, 4):
        taken.clear()
        shared = generator()
        options = SynthesisOptions(iterations=12, check_every=2, patience=patience)
        targets = impression_targets(2, 2)
        synthesize_impressions(model, means, targets, statistics=statistics, options=options, generator=shared)
        after.append(shared.get_state())
        assert len(taken) == (12 if patience is None else 6)  # the first look is after two
    assert torch.equal(*after)


def test_impressions_come_closer_to_their_classes(trained):
    model, means, statistics = trained
    targets = impression_targets(12, 3)
    options = SynthesisOptions(iterations=60, flip=False)
    start, end = (
        synthesize_impressions(
            model,
            means,
            targets,
            statistics=statistics,
            options=SynthesisOptions(iterations=1, learning_rate=1e-30) if first else options,
            generator=generator(),
        )
        for first in (True, False)
    )
    with torch.no_grad():
        model.eval()
        losses = [F.cross_entropy(model(images), targets).item() for images in (start, end)]
        distances = [StatisticsLoss(model, statistics)(images, targets)[1].item() for images in (start, end)]
    assert losses[1] < losses[0]
    assert distances[1] < 0.8 * distances[0]


def test_batch_normalization_needs_no_statistics_and_noise_no_values_of_the_means():
    model = CCSIResNet(2, in_channels=1, norm="batch")
    options = SynthesisOptions(iterations=2, from_mean=False, pixel_range=(-5.0, 5.0), selection="shifted")
    images = [
        synthesize_impressions(model, means, torch.tensor([0, 1]), options=options, generator=generator())
        for means in (torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32))
    ]
    assert torch.equal(*images)
    assert images[0].std().item() == pytest.approx(1.0, abs=0.1)


def test_targets():
    assert impression_targets(5, 3).tolist() == [0, 1, 2, 0, 1]
    drawn = impression_targets(6000, 3, draw="uniform", generator=generator())
    assert (drawn.bincount() - 2000).abs().max() < 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_means": torch.zeros(3, 28, 28)}, "class_means must be .* images .* of shape (3, 28, 28)"),
        ({"targets": torch.tensor([0, 3])}, "targets must be positions among 3 class_means, got 0 to 3"),
        ({"targets": torch.zeros(0).long()}, "at least one image, got (0,)"),
        ({"targets": torch.zeros(2)}, "int64 tensor of class labels, got torch.float32"),
        ({"statistics": None}, "of the 9 layers .*, got 0"),
        ({"class_means": torch.zeros(4, 1, 28, 28)}, "a row for each of 4 class_means, got 3"),
        ({"options": SynthesisOptions(statistics_form="batch")}, "has rows, 3, got batch_size=40 and 2 images"),
        ({"options": SynthesisOptions(pixel_range=IMAGENET_RANGE)}, "one for each of 1 channels, got 3"),
    ],
)
def test_bad_arguments(trained, changes, message):
    model, means, statistics = trained
    arguments = {"class_means": means, "targets": torch.tensor([0, 1]), "statistics": statistics, "options": SHORT}
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises((TypeError, ValueError), match=pattern):
        synthesize_impressions(model, **{**arguments, **changes}, generator=generator())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SynthesisOptions(iterations=0), "iterations must be positive, got 0"),
        (lambda: SynthesisOptions(jitter=-1), "jitter must not be negative, got -1"),
        (lambda: SynthesisOptions(tv_l2=-1.0), "tv_l2 must not be negative, got -1.0"),
        (lambda: SynthesisOptions(learning_rate=0.0), "learning_rate must be positive, got 0.0"),
        (lambda: SynthesisOptions(first_layer_weight=-1.0), "first_layer_weight must not be negative, got -1.0"),
        (lambda: SynthesisOptions(betas=(0.5, 1.0)), r"betas must be in \[0, 1\), got \(0.5, 1.0\)"),
        *(
            (lambda bounds=bounds: SynthesisOptions(pixel_range=bounds), "pixel_range must be the lowest and then the")
            for bounds in ((1.0, 0.0), (0.0, 0.0), (0.0, float("nan")), (0.0,), ((0, 0), (1, 1, 1)), ((0, 1), 1), "01")
        ),
        (lambda: SynthesisOptions(statistics_form="row"), "statistics_form must be 'class' or 'batch', got 'row'"),
        (lambda: SynthesisOptions(selection="last"), "selection must be 'unshifted' or 'shifted', got 'last'"),
        (lambda: SynthesisOptions.preset("released", patience=5), "patience needs selection='unshifted'"),
        (lambda: SynthesisOptions.preset("paper"), "preset must be 'default' or 'released', got 'paper'"),
        (lambda: impression_targets(0, 3), "must be positive, got 0 and 3"),
        (lambda: impression_targets(3, 3, draw="cyclic"), "draw must be 'balanced' or 'uniform', got 'cyclic'"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
