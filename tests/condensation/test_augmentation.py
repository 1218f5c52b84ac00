"""Augmentations: the recordings, what a generator draws, and errors."""

from __future__ import annotations

import itertools

import pytest
import torch

from clpack.condensation import DSA_DIGITS, DSA_NATURAL, augment, dc_augment, draw_augmentation, draw_dc_augmentation

OPERATIONS = ["brightness", "saturation", "contrast", "crop", "cutout", "flip", "scale", "rotate"]
PAIRS = {"crop", "cutout", "scale"}


def strategy_of(operation):
    return "color" if operation in ("brightness", "saturation", "contrast") else operation


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["siam", "indep"])
def test_recorded_operations_and_their_gradients(golden, operation, kind):
    recording = golden("condensation/dsa_ops")
    tags = [name[:-2] for name in recording if f"_{operation}_{kind}_" in name and name.endswith("_y")]
    assert len(tags) == 3
    for tag in tags:
        images = recording[f"{tag.split('_')[0]}_x"].requires_grad_()
        draws = [recording[f"{tag}_draw{j}"] for j in range(1 + (operation in PAIRS))]
        draws = [draw[0].item() if kind == "siam" else draw for draw in draws]
        params = {operation: draws if operation in PAIRS else draws[0]}
        result = augment(images, strategy_of(operation), params=params)
        torch.testing.assert_close(result, recording[f"{tag}_y"], rtol=1e-4, atol=1e-5)
        (gradient,) = torch.autograd.grad((result * recording[f"{tag.split('_')[0]}_w"]).sum(), images)
        torch.testing.assert_close(gradient, recording[f"{tag}_dx"], rtol=1e-3, atol=1e-5)


def test_recorded_compositions(golden):
    recording = golden("condensation/dsa_compose")
    for tag, call in recording.meta.items():
        names = call["strategy"].split("_") if call["mode"] == "M" else [call.get("chosen")]
        draws, params = iter(call["first_draws"]), {}
        if not call["first_draws"]:
            names = []
        for name in names:
            for operation in ("brightness", "saturation", "contrast") if name == "color" else (name,):
                params[operation] = list(itertools.islice(draws, 2)) if operation in PAIRS else next(draws)
        assert next(draws, None) is None
        result = augment(recording[f"{tag[: tag.index('_')]}_x"], call["strategy"], params=params)
        torch.testing.assert_close(result, recording[f"{tag}_y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["rgb", "gray"])
@pytest.mark.parametrize("strategy", ["crop_scale_rotate", "crop", "scale", "rotate"])
def test_recorded_augmentation_of_dc(golden, kind, strategy):
    recording = golden("condensation/dc_augment")
    names, chosen, draws = strategy.split("_"), [], []
    for _, value in recording.meta[f"{kind}_{strategy}"]:
        if value in names:
            chosen.append(names.index(value))
            draws.append([])
        else:
            draws[-1].append(value)
    draws = torch.tensor([(*values, 0.0)[:2] for values in draws], dtype=torch.float64)
    result = dc_augment(recording[f"{kind}_x"], strategy, params=(torch.tensor(chosen), draws))
    torch.testing.assert_close(result, recording[f"{kind}_{strategy}_y"], rtol=1e-4, atol=1e-5)


def test_rotation_by_nothing_is_the_image():
    images = torch.randn(2, 3, 9, 9)
    result = dc_augment(images, "rotate", params=(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2)))
    torch.testing.assert_close(result, images, rtol=0, atol=1e-5)


def test_draws_are_uniform_over_operations_and_within_their_ranges():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_augmentation(DSA_NATURAL, (4, 3, 32, 28), generator=generator) for _ in range(3000)]
    counts = {name: sum(name in params for params in drawn) for name in OPERATIONS}
    assert counts["brightness"] == counts["saturation"] == counts["contrast"]
    assert all(count == pytest.approx(500, abs=100) for count in counts.values())  # 5 standard deviations
    for row_and_column, ranges in (("crop", ((-4, 4), (-4, 4))), ("cutout", ((0, 32), (0, 28)))):
        values = torch.tensor([params[row_and_column] for params in drawn if row_and_column in params])
        assert [(low.item(), high.item()) for low, high in zip(*values.aminmax(dim=0), strict=True)] == list(ranges)
    odd = [draw_augmentation("cutout", (4, 3, 9, 9), generator=generator)["cutout"] for _ in range(300)]
    assert torch.tensor(odd).max() == 8
    assert not any("flip" in draw_augmentation(DSA_DIGITS, (1, 1, 8, 8), generator=generator) for _ in range(100))
    each = draw_augmentation("crop", (5, 3, 32, 32), generator=generator, siamese=False)["crop"]
    assert [value.shape for value in each] == [(5,), (5,)]


def test_draws_of_dc():
    chosen, draws = draw_dc_augmentation("crop_scale_rotate", 6000, generator=torch.Generator().manual_seed(0))
    for position, (low, high) in enumerate([(0, 7), (0.8, 1.2), (-45, 44)]):
        values = draws[chosen == position]
        assert len(values) == pytest.approx(2000, abs=200)
        assert (values.min().item(), values.max().item()) == pytest.approx((low, high), abs=1e-2)
    noisy = dc_augment(torch.zeros(50, 3, 8, 8), "noise", generator=torch.Generator().manual_seed(0))
    assert noisy.std().item() == pytest.approx(1e-3, rel=0.05)


def test_generators_and_random_state():
    images, state = torch.randn(4, 3, 8, 8), torch.get_rng_state()
    for function, strategy in ((augment, DSA_NATURAL), (dc_augment, "crop_scale_rotate_noise")):
        results = [function(images, strategy, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])
        assert function(images, "none") is images
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_arguments():
    images, generator = torch.randn(2, 3, 8, 8), torch.Generator()
    for function, arguments, options, message in (
        (augment, (images, "crop_flop"), {"generator": generator}, "unknown operation .*'crop_flop'.*'flop'"),
        (augment, (images, "crop"), {}, "give either params"),
        (augment, (images, "crop"), {"params": {"flip": 0.2}}, "unknown operation of strategy 'crop' 'flip'"),
        (augment, (images, "flip"), {"params": {"flip": torch.rand(3)}}, r"one for each of 2 images, got \(3,\)"),
        (augment, (images[0], "flip"), {"generator": generator}, r"shape \(B, C, H, W\), got \(3, 8, 8\)"),
        (dc_augment, (images, "flip"), {"generator": generator}, "unknown operation in augmentation 'flip'"),
        (dc_augment, (images, "crop"), {}, "give params"),
        (dc_augment, (images, "crop"), {"params": (torch.zeros(2), torch.zeros(2))}, r"shapes \(2,\) and \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*arguments, **options)
    with pytest.raises(TypeError, match="floating-point tensor, normalized, got torch.uint8"):
        augment(images.byte(), "flip", generator=generator)
